//! Who may call what, as data. A method that is not in the table cannot be called; a test holds the table against the
//! descriptors. Pure.

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Everybody, without a login.
    Public,
    /// Everybody who is logged in; what they may do is decided by whom it concerns.
    LoggedIn,
    /// Viewers and up.
    Viewer,
    /// Operators and up.
    Operator,
    /// Administrators.
    Admin,
}

/// What holds for one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `package.Service/Method`.
    pub method: &'static str,
    /// Who may call it.
    pub access: Access,
    /// It changes something, or lets somebody in: each call is an entry of the audit log.
    pub audited: bool,
}

macro_rules! rules {
    ($($package:literal $service:ident { $($access:ident $effect:ident $method:ident;)* })*) => {
        &[$($(Rule {
            method: concat!($package, ".", stringify!($service), "/", stringify!($method)),
            access: Access::$access,
            audited: rules!(@ $effect),
        },)*)*]
    };
    (@ changes) => { true };
    (@ reads) => { false };
}

/// All methods that there are.
pub const RULES: &[Rule] = rules! {
    "quantix.node.v1" VmService {
        Viewer reads ListVms;
        Viewer reads GetVm;
        Operator changes CreateVm;
        Operator changes UpdateVm;
        Operator changes DeleteVm;
        Operator changes StartVm;
        Operator changes StopVm;
        Operator changes ResetVm;
        Operator changes PauseVm;
        Operator changes ResumeVm;
        Operator changes CloneVm;
        // Whoever is on the console types into the guest.
        Operator changes ConsoleVm;
        Viewer reads GetVmLog;
        Viewer reads GetVmStatistics;
        Viewer reads WatchVmStatistics;
        Viewer reads GetVmIsolation;
        Viewer reads GetVmBootReport;
    }
    "quantix.node.v1" PoolService {
        Viewer reads ListPools;
        Viewer reads GetPool;
        Admin changes CreatePool;
        Admin changes DeletePool;
    }
    "quantix.node.v1" VolumeService {
        Viewer reads ListVolumes;
        Viewer reads GetVolume;
        Operator changes CreateVolume;
        Operator changes UpdateVolume;
        Operator changes ResizeVolume;
        Operator changes CloneVolume;
        Operator changes DeleteVolume;
    }
    "quantix.node.v1" ImageService {
        Viewer reads ListImages;
        Viewer reads GetImage;
        Operator changes UploadImage;
        Operator changes ImportImage;
        Operator changes DeleteImage;
    }
    "quantix.node.v1" NetworkService {
        Viewer reads ListNetworks;
        Viewer reads GetNetwork;
        Admin changes CreateNetwork;
        Admin changes UpdateNetwork;
        Admin changes DeleteNetwork;
        Viewer reads ListLeases;
    }
    "quantix.node.v1" TaskService {
        Viewer reads ListTasks;
        Viewer reads GetTask;
        Viewer reads WaitTask;
        Viewer reads WatchTask;
        Operator changes CancelTask;
    }
    "quantix.node.v1" EventService {
        Viewer reads WatchEvents;
        Viewer reads ListEvents;
    }
    "quantix.node.v1" HostService {
        Viewer reads GetHost;
        Viewer reads GetHardware;
        Viewer reads GetMetrics;
        Viewer reads GetHostBootReport;
    }
    "quantix.node.v1" AuditService {
        Admin reads ListAuditEntries;
    }
    "quantix.node.v1" AuthService {
        Public changes Setup;
        Public changes Login;
        LoggedIn changes Logout;
        LoggedIn reads WhoAmI;
        Admin reads ListUsers;
        Admin changes CreateUser;
        Admin changes UpdateUser;
        // One's own, or as administrator anybody's: the service decides.
        LoggedIn changes SetPassword;
        Admin changes DeleteUser;
        LoggedIn reads ListTokens;
        LoggedIn changes CreateToken;
        LoggedIn changes DeleteToken;
    }
    // What a client needs before it can say anything.
    "grpc.health.v1" Health {
        Public reads Check;
        Public reads List;
        Public reads Watch;
    }
    "grpc.reflection.v1" ServerReflection {
        Public reads ServerReflectionInfo;
    }
    "grpc.reflection.v1alpha" ServerReflection {
        Public reads ServerReflectionInfo;
    }
};

/// The rule of a method, by `package.Service/Method`.
pub fn of(method: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.method == method)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quantix_api::json::POOL;

    use super::*;

    #[test]
    fn each_method_has_one_rule_and_each_rule_a_method() {
        let methods: BTreeSet<String> = POOL
            .services()
            .flat_map(|s| {
                s.methods().map(move |m| format!("{}/{}", m.parent_service().full_name(), m.name())).collect::<Vec<_>>()
            })
            .collect();
        let ruled: Vec<&str> = RULES.iter().map(|r| r.method).filter(|m| m.starts_with("quantix.")).collect();
        assert_eq!(ruled.iter().map(|m| (*m).to_owned()).collect::<BTreeSet<_>>(), methods);
        assert_eq!(ruled.len(), methods.len(), "a method is in the table twice");
    }

    #[test]
    fn what_is_reached_by_get_changes_nothing() {
        for route in crate::server::rest::routes::Routes::read().iter() {
            if let crate::server::rest::routes::Target::Method(method, _) = &route.target {
                let rule = of(&format!("{}/{}", method.parent_service().full_name(), method.name())).unwrap();
                let reads = route.verb == http::Method::GET || method.name() == "WaitTask";
                assert_eq!(rule.audited, !reads, "{}", rule.method);
            }
        }
    }
}
