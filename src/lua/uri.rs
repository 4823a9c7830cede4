//! Reads the `uri` option, for `mqtt.client` and `mqtt.brokers`.

use super::results::{Results, push_failure};
use super::stack::{RawFunction, Stack};
use crate::net::Uri;

/// Adds the function of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("parse_uri", ParseUri);
}

/// `parse_uri(uri)`: true, scheme, username, password, host, port and path, each nil if it is missing; or nil and an error.
struct ParseUri;

impl RawFunction for ParseUri {
    type Output = Result<Uri, String>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let uri = String::from_utf8_lossy(arguments.argument(1).bytes(&"uri")?);
        uri.parse().map_err(|error| format!("{error}"))
    }

    fn push(output: &Self::Output, results: &Stack) {
        let uri = match output {
            Ok(uri) => uri,
            Err(error) => return push_failure(error, results),
        };
        results.push_boolean(true);
        uri.scheme.map(|scheme| scheme.name()).push(results);
        uri.username.push(results);
        match &uri.password {
            Some(password) => results.push_bytes(&password.0),
            None => results.push_nil(),
        }
        uri.host.push(results);
        uri.port.push(results);
        uri.path.push(results);
    }
}
