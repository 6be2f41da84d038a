//! Settings: defaults, errors that name the place.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(Path::new("/etc/quantix/node.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_defaults_and_they_are_possible() {
    let settings = parse("").unwrap();
    assert_eq!(settings, Settings::default());
    settings.check().unwrap();
    assert_eq!((settings.listen.grpc.port(), settings.listen.rest.port()), (9443, 8443));
}

#[test]
fn what_is_written_is_read_again() {
    let text = toml::to_string_pretty(&Settings::default()).unwrap();
    assert_eq!(parse(&text).unwrap(), Settings::default());
}

#[test]
fn errors_name_file_line_and_field() {
    let cases = [
        ("state_dir = '/a'\n\n  stat_dir = '/b'\n", "/etc/quantix/node.toml:3:3: unknown field `stat_dir`"),
        ("[listen]\ngrpc = 'x'\n", "/etc/quantix/node.toml:2:8: invalid socket address"),
        ("[listen]\nport = 1\n", "/etc/quantix/node.toml:2:1: unknown field `port`, expected `grpc` or `rest`"),
        ("state_dir = \n", "/etc/quantix/node.toml:1:"),
    ];
    for (text, begin) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(begin), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn impossible_values_name_the_field() {
    let relative = Settings { run_dir: "run".into(), ..Settings::default() };
    assert_eq!(relative.check().unwrap_err().to_string(), "run_dir = run: is not an absolute path: begin it with /");
    let mut same = Settings::default();
    same.listen.rest = same.listen.grpc;
    assert!(same.check().unwrap_err().to_string().starts_with("listen.rest = [::]:9443"));
    // Port 0 is another one each time.
    same.listen.grpc.set_port(0);
    same.listen.rest.set_port(0);
    same.check().unwrap();
}
