//! Reads the arguments that say where and how a client connects into a `Target` of `net`.

use super::args::{Checked, Scalar, Value};
use super::stack::Stack;
use crate::net::{Proxy, Scheme, Target, TlsConfig, WebSocketConfig};

/// Adds `check_target(...)` to `mqtt.core`: true if a client can connect to the target; or nil and an error.
pub(crate) fn register(core: &Stack) {
    core.set_function("check_target", |arguments| {
        Ok(read(arguments, 1).map(|_| true))
    });
}

/// Reads and checks a target, the arguments from `first` on: protocol, host, port, path, TLS settings (a result of the
/// function `tls`, which a build without TLS does not have), header fields for WebSocket, proxy. Each may be nil. They are
/// no table, since each client would leave its table to the collector.
pub(crate) fn read(arguments: &Stack, first: i32) -> Checked<Target> {
    let text = |index: i32, name| match arguments.argument(first + index) {
        Scalar::Nil => Ok::<_, String>(None),
        text => Ok(Some(
            String::from_utf8_lossy(text.bytes(&name)?).into_owned(),
        )),
    };
    let scheme: Scheme = text(0, "protocol")?
        .ok_or("expecting a protocol")?
        .parse()
        .map_err(words)?;
    let path = text(3, "path")?.unwrap_or_default();
    if scheme == Scheme::Unix {
        return if cfg!(unix) {
            Ok(Target::unix(path))
        } else {
            Err("this system has no Unix domain sockets".into())
        };
    }
    let proxy = match text(6, "proxy")? {
        Some(text) => Some(
            text.parse::<Proxy>()
                .map_err(|error| format!("proxy: {error}"))?,
        ),
        None => None,
    };
    let host = text(1, "host")?.ok_or("expecting a host")?;
    let port = arguments.argument(first + 2);
    let port = port.integer(0, u16::MAX.into(), &"port")? as u16;
    Ok(Target {
        proxy,
        tls: match scheme {
            Scheme::Mqtts | Scheme::Wss => Some(tls(arguments, first + 4)?),
            _ => None,
        },
        websocket: match scheme {
            Scheme::Ws | Scheme::Wss => Some(websocket(&path, &arguments.value(first + 5)?)?),
            _ => None,
        },
        ..Target::tcp(host, port)
    })
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(feature = "tls")]
fn tls(arguments: &Stack, index: i32) -> Checked<TlsConfig> {
    let settings = arguments.object::<super::tls::LuaTls>(index);
    Ok(settings.ok_or("expecting TLS settings")?.0.clone())
}

#[cfg(not(feature = "tls"))]
fn tls(_: &Stack, _: i32) -> Checked<TlsConfig> {
    Err("this build of mqtt.core has no TLS: it was made without the cargo feature 'tls'".into())
}

#[cfg(feature = "websocket")]
fn websocket(path: &str, headers: &Value) -> Checked<WebSocketConfig> {
    let mut fields = Vec::new();
    if !matches!(headers, Value::Nil) {
        let table = headers.table(&"ws_headers")?;
        if !table.list.is_empty() {
            return Err("expecting names of headers as keys of ws_headers".into());
        }
        for pair in &table.fields {
            match pair {
                (Value::String(name), Value::String(value)) => {
                    fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
                }
                (Value::String(name), _) => {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!("expecting ws_headers['{name}'] to be a string"));
                }
                _ => return Err("expecting names of headers as keys of ws_headers".into()),
            }
        }
    }
    WebSocketConfig::new(path, &fields)
}

#[cfg(not(feature = "websocket"))]
fn websocket(_: &str, _: &Value) -> Checked<WebSocketConfig> {
    Err(
        "this build of mqtt.core has no WebSocket: it was made without the cargo feature 'websocket'"
            .into(),
    )
}
