//! Where a client connects to: the options about the way there, made into those of `net`.

use mlua::{IntoLuaMulti, Lua, Nil, Table, UserData};

use crate::net::{Proxy, Scheme, Target, TlsConfig, WebSocketConfig};

/// A checked target, as Lua holds it.
pub(crate) struct LuaTarget(pub(crate) Target);

impl UserData for LuaTarget {}

/// Adds to `mqtt.core` `target{protocol=, host=, port=, path=, tls=, ws_headers=, proxy=}`: where to connect to, all of it
/// checked; or nil and an error. `tls` is what the function `tls` returns, which a build without TLS does not have.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    core.set(
        "target",
        lua.create_function(|lua, options: Table| match target(&options) {
            Ok(target) => LuaTarget(target).into_lua_multi(lua),
            Err(error) => (Nil, error).into_lua_multi(lua),
        })?,
    )
}

fn target(options: &Table) -> Result<Target, String> {
    let scheme: Scheme = get::<String>(options, "protocol")?.parse().map_err(words)?;
    if scheme == Scheme::Unix {
        return if cfg!(unix) {
            Ok(Target::unix(get::<String>(options, "path")?))
        } else {
            Err("this system has no Unix domain sockets".into())
        };
    }
    let proxy = match get::<Option<String>>(options, "proxy")? {
        Some(text) => Some(
            text.parse::<Proxy>()
                .map_err(|error| format!("proxy: {error}"))?,
        ),
        None => None,
    };
    Ok(Target {
        proxy,
        tls: match scheme {
            Scheme::Mqtts | Scheme::Wss => Some(tls(options)?),
            _ => None,
        },
        websocket: match scheme {
            Scheme::Ws | Scheme::Wss => Some(websocket(options)?),
            _ => None,
        },
        ..Target::tcp(get::<String>(options, "host")?, get(options, "port")?)
    })
}

fn get<T: mlua::FromLua>(options: &Table, key: &str) -> Result<T, String> {
    options.get(key).map_err(words)
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(feature = "tls")]
fn tls(options: &Table) -> Result<TlsConfig, String> {
    let tls: mlua::UserDataRef<super::tls::LuaTls> = get(options, "tls")?;
    Ok(tls.0.clone())
}

#[cfg(not(feature = "tls"))]
fn tls(_: &Table) -> Result<TlsConfig, String> {
    Err("this build of mqtt.core has no TLS: it was made without the cargo feature 'tls'".into())
}

#[cfg(feature = "websocket")]
fn websocket(options: &Table) -> Result<WebSocketConfig, String> {
    let mut headers = Vec::new();
    if let Some(table) = get::<Option<Table>>(options, "ws_headers")? {
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
    WebSocketConfig::new(&get::<String>(options, "path")?, &headers)
}

#[cfg(not(feature = "websocket"))]
fn websocket(_: &Table) -> Result<WebSocketConfig, String> {
    Err(
        "this build of mqtt.core has no WebSocket: it was made without the cargo feature 'websocket'"
            .into(),
    )
}
