//! Which path leads where: read once from the HTTP annotations of the protos, plus the few ways that no annotation can
//! say. Pure data; REST dispatches by it and the OpenAPI document is written from it.

use http::Method;
use prost_reflect::{FieldDescriptor, MethodDescriptor, Value};
use quantix_api::json::POOL;

use super::template::{Captures, NotText, Template};

/// Which part of the request message the body fills.
#[derive(Debug, Clone)]
pub enum BodyRule {
    /// No body.
    None,
    /// All fields that the path does not give.
    All,
    /// This field.
    Field(FieldDescriptor),
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub enum Target {
    /// A method of the API, by its annotation.
    Method(MethodDescriptor, BodyRule),
    /// `ConsoleVm` over a WebSocket.
    Console,
    /// `UploadImage` with the bytes as the body.
    Upload,
    /// The OpenAPI document.
    OpenApi,
    /// Prometheus text.
    Metrics,
    /// A page that says what this is.
    Front,
}

/// One way into the API.
#[derive(Debug, Clone)]
pub struct Route {
    /// GET, POST, PATCH or DELETE.
    pub verb: Method,
    /// As written in the annotation.
    pub path: String,
    /// `path`, parsed.
    pub template: Template,
    /// Where it leads.
    pub target: Target,
}

/// All ways into the API.
#[derive(Debug)]
pub struct Routes(Vec<Route>);

/// What a look-up finds.
#[derive(Debug)]
pub enum Found<'a> {
    /// A route and the values of its path.
    Route(&'a Route, Captures),
    /// The path exists for other verbs: these, as an `Allow` header says them.
    OtherVerbs(String),
    /// Nothing is there.
    Nothing,
    /// A value of the path is no text.
    NotText(NotText),
}

/// Ways that no annotation says: what they carry is no JSON.
const SPECIAL: [(Method, &str, Target); 5] = [
    (Method::GET, "/v1/vms/{vm}/console", Target::Console),
    (Method::POST, "/v1/images:upload", Target::Upload),
    (Method::GET, "/openapi.json", Target::OpenApi),
    (Method::GET, "/metrics", Target::Metrics),
    (Method::GET, "/", Target::Front),
];

impl Routes {
    /// Reads the annotations of all methods.
    ///
    /// # Panics
    /// When an annotation cannot be read: the protos are part of this program, and a test reads them all.
    pub fn read() -> Self {
        let http = POOL.get_extension_by_name("google.api.http").expect("the annotation is part of the API");
        let mut routes = Vec::new();
        for method in POOL.services().flat_map(|s| s.methods().collect::<Vec<_>>()) {
            let options = method.options();
            if !options.has_extension(&http) {
                continue;
            }
            let rule = options.get_extension(&http);
            let Value::Message(rule) = rule.as_ref() else { unreachable!("google.api.http is a message") };
            let (verb, path) = [
                ("get", Method::GET),
                ("put", Method::PUT),
                ("post", Method::POST),
                ("delete", Method::DELETE),
                ("patch", Method::PATCH),
            ]
            .into_iter()
            .find(|(name, _)| rule.has_field_by_name(name))
            .map(|(name, verb)| (verb, text(rule, name)))
            .expect("each annotation has a verb");
            let body = match text(rule, "body").as_str() {
                "" => BodyRule::None,
                "*" => BodyRule::All,
                name => BodyRule::Field(method.input().get_field_by_name(name).expect("the body is a field")),
            };
            let template = Template::parse(&path).expect("the template can be read");
            routes.push(Route { verb, path, template, target: Target::Method(method, body) });
        }
        for (verb, path, target) in SPECIAL {
            let template = Template::parse(path).expect("the template can be read");
            routes.push(Route { verb, path: path.to_owned(), template, target });
        }
        Self(routes)
    }

    /// Finds where a request goes. HEAD goes where GET goes.
    pub fn find(&self, verb: &Method, path: &str) -> Found<'_> {
        let verb = if verb == Method::HEAD { &Method::GET } else { verb };
        let mut others: Vec<&str> = Vec::new();
        for route in &self.0 {
            match route.template.capture(path) {
                None => {}
                Some(Ok(captures)) if route.verb == verb => return Found::Route(route, captures),
                Some(Err(refused)) if route.verb == verb => return Found::NotText(refused),
                Some(_) => others.push(route.verb.as_str()),
            }
        }
        if others.is_empty() {
            return Found::Nothing;
        }
        if others.contains(&"GET") {
            others.push("HEAD");
        }
        others.push("OPTIONS");
        Found::OtherVerbs(others.join(", "))
    }

    /// All routes, in the order of the protos.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

fn text(message: &prost_reflect::DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(verb: &Method, path: &str) -> String {
        match Routes::read().find(verb, path) {
            Found::Route(Route { target: Target::Method(method, _), .. }, _) => method.name().to_owned(),
            Found::Route(route, _) => format!("{:?}", route.target),
            Found::OtherVerbs(verbs) => verbs,
            Found::Nothing => "nothing".into(),
            Found::NotText(e) => e.to_string(),
        }
    }

    #[test]
    fn requests_find_their_method() {
        for (verb, path, expected) in [
            (Method::GET, "/v1/vms", "ListVms"),
            (Method::HEAD, "/v1/vms", "ListVms"),
            (Method::POST, "/v1/vms", "CreateVm"),
            (Method::PATCH, "/v1/vms/demo", "UpdateVm"),
            (Method::POST, "/v1/vms/demo:start", "StartVm"),
            (Method::GET, "/v1/vms/demo/statistics:watch", "WatchVmStatistics"),
            (Method::GET, "/v1/vms/demo/console", "Console"),
            (Method::POST, "/v1/images:upload", "Upload"),
            (Method::POST, "/v1/images:import", "ImportImage"),
            (Method::GET, "/v1/metrics", "GetMetrics"),
            (Method::GET, "/metrics", "Metrics"),
            (Method::PUT, "/v1/vms", "GET, POST, HEAD, OPTIONS"),
            (Method::GET, "/v1/vms/demo:start", "POST, OPTIONS"),
            (Method::GET, "/v2/vms", "nothing"),
            (Method::GET, "/v1/vms/", "nothing"),
        ] {
            assert_eq!(target(&verb, path), expected, "{verb} {path}");
        }
    }

    #[test]
    fn no_two_routes_take_the_same_request() {
        let routes = Routes::read();
        for route in routes.iter() {
            let path = route.path.replace(['{', '}'], "");
            let takers = routes.iter().filter(|r| r.verb == route.verb && r.template.capture(&path).is_some());
            assert_eq!(takers.count(), 1, "{} {}", route.verb, route.path);
        }
    }
}
