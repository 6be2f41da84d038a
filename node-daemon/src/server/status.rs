//! Failures as the wire has them: a gRPC status with `google.rpc` details. Pure.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::model::{Failure, FailureKind};

/// Who gives the reasons in `ErrorInfo`.
const DOMAIN: &str = "quantix.node";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = Code::from_i32(failure.kind().code());
        if failure.kind() == FailureKind::Internal {
            // The caller gets the sentence; the causes are for the node's own log.
            tracing::error!("{}", failure.chain());
        }
        let mut details =
            ErrorDetails::with_error_info(failure.kind().as_str(), DOMAIN, std::collections::HashMap::new());
        if !failure.fields().is_empty() {
            let fields = failure.fields().iter().map(|v| FieldViolation::new(&v.field, &v.description));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        Status::with_error_details(code, failure.message(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Violation;

    #[test]
    fn fields_at_fault_are_on_the_wire() {
        let fields = ["a", "b"].map(|field| Violation { field: field.into(), description: "is wrong".into() });
        let status = Status::from(Failure::violations(fields.to_vec()));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_ARGUMENT");
        let named: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect();
        assert_eq!(named, ["a", "b"]);
    }
}
