//! The `secure` option: reads LuaSec's table of settings into a `TlsConfig` of `net`.

use std::cell::Cell;

use super::args::{Checked, Table, Value};
use super::results::push_failure;
use super::stack::{RawFunction, Stack};
use crate::net::{Secret, TlsConfig, TlsOptions, protocol_range};

/// Checked settings, as Lua holds them.
pub(crate) struct LuaTls(pub(crate) TlsConfig);

/// Settings of LuaSec without a use in rustls. They are accepted, so that programs need not change.
const IGNORED: [&str; 9] = [
    "ciphers",
    "ciphersuites",
    "curve",
    "curves_list",
    "dane",
    "depth",
    "dhparam",
    "ssl_module",
    "verifyext",
];

/// Adds the function of this file to `mqtt.core`.
pub(crate) fn register(core: &Stack) {
    core.set_raw("tls", NewTls);
}

/// `tls(settings)`: checks the settings and reads their files. Returns an object; or nil and an error.
struct NewTls;

impl RawFunction for NewTls {
    type Output = Checked<Cell<Option<LuaTls>>>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let settings = arguments.value(1)?;
        let config = options(settings.table(&"settings")?)
            .and_then(|options| TlsConfig::new(&options).map_err(|error| error.to_string()));
        match config {
            Ok(config) => Ok(Cell::new(Some(LuaTls(config)))),
            Err(error) => Err(format!("secure: {error}")),
        }
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(tls) => {
                if let Some(tls) = tls.take() {
                    results.push_object(tls, |_| {});
                }
            }
            Err(error) => push_failure(error, results),
        }
    }
}

fn options(settings: &Table) -> Result<TlsOptions, String> {
    let mut options = TlsOptions::default();
    let mut protocol = "any".to_owned();
    let mut flags = Vec::new();
    if !settings.list.is_empty() {
        return Err("expecting names of settings as keys".into());
    }
    for (key, value) in &settings.fields {
        let key = match key {
            Value::String(key) => String::from_utf8_lossy(key).into_owned(),
            _ => return Err("expecting names of settings as keys".into()),
        };
        let path = || text(&key, value).map(|path| Some(path.into()));
        match key.as_str() {
            "mode" if text(&key, value)? == "client" => {}
            "mode" => return Err("expecting mode to be \"client\"".into()),
            "protocol" => protocol = text(&key, value)?,
            "options" => flags = texts(&key, value)?,
            // LuaSec joins the flags as bits. "none" has no bit; the others ("peer", "fail_if_no_peer_cert",
            // "client_once") all ask for verification.
            "verify" => {
                let flags = texts(&key, value)?;
                options.verify = flags.is_empty() || flags.iter().any(|flag| flag != "none");
            }
            "cafile" => options.cafile = path()?,
            "capath" => options.capath = path()?,
            "certificate" => options.certificate = path()?,
            "key" => options.key = path()?,
            "password" => options.password = Some(Secret::from(&*text(&key, value)?)),
            "alpn" => {
                options.alpn = texts(&key, value)?
                    .into_iter()
                    .map(String::into_bytes)
                    .collect()
            }
            "server_name" => options.server_name = Some(text(&key, value)?),
            ignored if IGNORED.contains(&ignored) => {}
            _ => return Err(format!("unexpected setting '{key}'")),
        }
    }
    (options.min_version, options.max_version) =
        protocol_range(&protocol, flags.iter().map(String::as_str))
            .map_err(|error| error.to_string())?;
    Ok(options)
}

/// A string. Errors do not show the value: it may be a secret.
fn text(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(String::from_utf8_lossy(text).into_owned()),
        other => Err(other.scalar().unexpected(&key, "a string")),
    }
}

/// A string or a list of strings.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Table(table) => table.list.iter().map(|item| text(key, item)).collect(),
        value => Ok(vec![text(key, value)?]),
    }
}
