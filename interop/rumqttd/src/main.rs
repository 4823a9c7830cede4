//! The broker rumqttd on 127.0.0.1: `interop-rumqttd PORT_FOR_3_1_1 PORT_FOR_5_0`.
//! It has a listener for each version, and keeps everything in memory.

use std::{collections::HashMap, env, error::Error, net::Ipv4Addr};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// The settings of a listener, as in the configuration that rumqttd comes with, but for the larger payloads.
fn listener(name: &str, port: u16) -> Option<HashMap<String, ServerSettings>> {
    let settings = ServerSettings {
        name: name.to_owned(),
        listen: (Ipv4Addr::LOCALHOST, port).into(),
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 16 << 20,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Some(HashMap::from([("1".to_owned(), settings)]))
}

fn main() -> Result<(), Box<dyn Error>> {
    let ports = env::args()
        .skip(1)
        .map(|argument| argument.parse())
        .collect::<Result<Vec<u16>, _>>()?;
    let &[v311, v50] = ports.as_slice() else {
        return Err("expecting two ports, for MQTT 3.1.1 and for 5.0".into());
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 1000,
            max_outgoing_packet_count: 200,
            max_segment_size: 100 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: listener("v4", v311),
        v5: listener("v5", v50),
        ..Config::default()
    };
    Broker::new(config).start()?;
    Ok(())
}
