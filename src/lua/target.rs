//! Where a client connects to: the options about the way there, made into those of `net`.

use mlua::{Lua, LuaString, Table, Value};

use crate::net::{Proxy, Scheme, Target, TlsConfig, WebSocketConfig};

/// Protocol, host, port, path, TLS settings (what the function `tls` returns, which a build without TLS does not have),
/// header fields for WebSocket, proxy; nil where there is none. As arguments, since each client would leave a table behind.
pub(crate) type Way = (
    LuaString,
    Option<LuaString>,
    Option<u16>,
    Option<LuaString>,
    Value,
    Option<Table>,
    Option<LuaString>,
);

/// Adds to `mqtt.core` `check_target(...)`: whether a client can connect that way; or nil and an error.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    core.set(
        "check_target",
        lua.create_function(|_, way: Way| {
            Ok(match read(way) {
                Ok(_) => (Some(true), None),
                Err(error) => (None, Some(error)),
            })
        })?,
    )
}

/// The target, all of it checked.
pub(crate) fn read(way: Way) -> Result<Target, String> {
    let (protocol, host, port, path, tls_settings, headers, proxy) = way;
    let scheme: Scheme = protocol.to_string_lossy().parse().map_err(words)?;
    let path = path.map(|path| path.to_string_lossy()).unwrap_or_default();
    if scheme == Scheme::Unix {
        return if cfg!(unix) {
            Ok(Target::unix(path))
        } else {
            Err("this system has no Unix domain sockets".into())
        };
    }
    let proxy = match proxy {
        Some(text) => Some(
            text.to_string_lossy()
                .parse::<Proxy>()
                .map_err(|error| format!("proxy: {error}"))?,
        ),
        None => None,
    };
    let host = host.ok_or("expecting a host")?.to_string_lossy();
    let port = port.ok_or("expecting a port")?;
    Ok(Target {
        proxy,
        tls: match scheme {
            Scheme::Mqtts | Scheme::Wss => Some(tls(&tls_settings)?),
            _ => None,
        },
        websocket: match scheme {
            Scheme::Ws | Scheme::Wss => Some(websocket(&path, headers)?),
            _ => None,
        },
        ..Target::tcp(host, port)
    })
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(feature = "tls")]
fn tls(settings: &Value) -> Result<TlsConfig, String> {
    let settings = settings.as_userdata().ok_or("expecting TLS settings")?;
    let tls: mlua::UserDataRef<super::tls::LuaTls> = settings.borrow().map_err(words)?;
    Ok(tls.0.clone())
}

#[cfg(not(feature = "tls"))]
fn tls(_: &Value) -> Result<TlsConfig, String> {
    Err("this build of mqtt.core has no TLS: it was made without the cargo feature 'tls'".into())
}

#[cfg(feature = "websocket")]
fn websocket(path: &str, table: Option<Table>) -> Result<WebSocketConfig, String> {
    let mut headers = Vec::new();
    if let Some(table) = table {
        for pair in table.pairs::<mlua::Value, mlua::Value>() {
            match pair.map_err(words)? {
                (mlua::Value::String(name), mlua::Value::String(value)) => {
                    headers.push((name.to_string_lossy(), value.as_bytes().to_vec()));
                }
                (mlua::Value::String(name), _) => {
                    let name = name.to_string_lossy();
                    return Err(format!("expecting ws_headers['{name}'] to be a string"));
                }
                _ => return Err("expecting names of headers as keys of ws_headers".into()),
            }
        }
    }
    WebSocketConfig::new(path, &headers)
}

#[cfg(not(feature = "websocket"))]
fn websocket(_: &str, _: Option<Table>) -> Result<WebSocketConfig, String> {
    Err(
        "this build of mqtt.core has no WebSocket: it was made without the cargo feature 'websocket'"
            .into(),
    )
}
