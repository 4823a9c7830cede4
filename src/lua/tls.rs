//! The `secure` option: LuaSec's table of settings, made into those of `net`.

use mlua::{IntoLuaMulti, Lua, Nil, Table, UserData, Value};

use crate::net::{Secret, TlsConfig, TlsOptions, protocol_range};

/// Checked settings, as Lua holds them.
pub(crate) struct LuaTls(pub(crate) TlsConfig);

impl UserData for LuaTls {}

/// Settings of LuaSec for which TLS 1.2 and 1.3 in rustls have no use. Accepted, so that programs need not change.
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

/// Adds `tls(settings)` to `mqtt.core`: the settings checked and their files read; or nil and an error.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    core.set(
        "tls",
        lua.create_function(|lua, settings: Table| {
            let config = options(&settings)
                .and_then(|options| TlsConfig::new(&options).map_err(|error| error.to_string()));
            match config {
                Ok(config) => LuaTls(config).into_lua_multi(lua),
                Err(error) => (Nil, format!("secure: {error}")).into_lua_multi(lua),
            }
        })?,
    )
}

fn options(settings: &Table) -> Result<TlsOptions, String> {
    let mut options = TlsOptions::default();
    let mut protocol = "any".to_owned();
    let mut flags = Vec::new();
    for pair in settings.pairs::<String, Value>() {
        let (key, value) = pair.map_err(|_| "expecting names of settings as keys".to_owned())?;
        let path = || text(&key, &value).map(|path| Some(path.into()));
        match key.as_str() {
            "mode" if text(&key, &value)? == "client" => {}
            "mode" => return Err("expecting mode to be \"client\"".into()),
            "protocol" => protocol = text(&key, &value)?,
            "options" => flags = texts(&key, &value)?,
            // LuaSec joins flags, of which "none" is no bit at all. The others ("peer", "fail_if_no_peer_cert",
            // "client_once") all ask for verification.
            "verify" => {
                let flags = texts(&key, &value)?;
                options.verify = flags.is_empty() || flags.iter().any(|flag| flag != "none");
            }
            "cafile" => options.cafile = path()?,
            "capath" => options.capath = path()?,
            "certificate" => options.certificate = path()?,
            "key" => options.key = path()?,
            "password" => options.password = Some(Secret::from(&*text(&key, &value)?)),
            "alpn" => {
                options.alpn = texts(&key, &value)?
                    .into_iter()
                    .map(String::into_bytes)
                    .collect()
            }
            "server_name" => options.server_name = Some(text(&key, &value)?),
            ignored if IGNORED.contains(&ignored) => {}
            _ => return Err(format!("unexpected setting '{key}'")),
        }
    }
    (options.min_version, options.max_version) =
        protocol_range(&protocol, flags.iter().map(String::as_str))
            .map_err(|error| error.to_string())?;
    Ok(options)
}

/// A string. What else it is stays unsaid: it may be a secret.
fn text(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.to_string_lossy()),
        other => {
            let got = match other {
                Value::Integer(_) => "number",
                other => other.type_name(),
            };
            Err(format!("expecting {key} to be a string, got: {got}"))
        }
    }
}

/// A string or a list of strings.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let Value::Table(list) = value else {
        return Ok(vec![text(key, value)?]);
    };
    list.sequence_values::<Value>()
        .map(|item| text(key, &item.map_err(|error| error.to_string())?))
        .collect()
}
