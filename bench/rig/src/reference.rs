//! The tasks with rumqttc, in one thread.

use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration,
    Transport,
};

use crate::program::{OUTSTANDING, Outcome, Stopwatch, Task, report_round_trips, status};
use crate::tls;
use crate::wire::{DATA, DONE};

/// Larger than any packet.
const MAX_PACKET: usize = 16 * 1024 * 1024;

/// Does a task.
pub fn run(task: &Task) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            if task.what == "clients" {
                return clients(task).await;
            }
            let (client, mut events) = connect(task).await?;
            match &*task.what {
                "receive" => receive(task, &client, &mut events).await,
                "publish" => publish(task, &client, &mut events).await,
                "roundtrip" => round_trips(task, &client, &mut events).await,
                what => Err(format!("rumqttc does not know '{what}'").into()),
            }
        })
}

fn qos(task: &Task) -> QoS {
    match task.qos() {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

async fn connect(task: &Task) -> Result<(AsyncClient, EventLoop), Box<dyn std::error::Error>> {
    let mut options = MqttOptions::new("rig-rumqttc", &task.host, task.port);
    options
        .set_inflight(OUTSTANDING as u16)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET)
        .set_keep_alive(Duration::from_secs(60));
    if let Some(ca) = &task.ca {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls::client(ca)?)));
    }
    let (client, mut events) = AsyncClient::new(options, OUTSTANDING);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    Ok((client, events))
}

async fn receive(task: &Task, client: &AsyncClient, events: &mut EventLoop) -> Outcome {
    let watch = Stopwatch::start(task);
    client
        .publish(task.receive_topic(), QoS::AtMostOnce, false, [])
        .await?;
    let mut count = 0;
    loop {
        if let Event::Incoming(Packet::Publish(message)) = events.poll().await? {
            if message.topic == DONE {
                break;
            }
            count += 1;
        }
    }
    watch.report(count);
    Ok(())
}

async fn publish(task: &Task, client: &AsyncClient, events: &mut EventLoop) -> Outcome {
    let (qos, size, duration) = (qos(task), task.size(), task.duration);
    let watch = Stopwatch::start(task);
    let start = Instant::now();
    let publisher = client.clone();
    let mut publishing = tokio::spawn(async move {
        let mut count: u64 = 0;
        while start.elapsed() < duration {
            publisher
                .publish(DATA, qos, false, vec![b'x'; size])
                .await?;
            count += 1;
        }
        publisher
            .publish("rig/end", QoS::AtMostOnce, false, [])
            .await?;
        Ok::<_, rumqttc::ClientError>(count)
    });
    let mut sent = None;
    let mut acknowledged = 0;
    let mut is_done = false;
    while !is_done || (qos != QoS::AtMostOnce && sent != Some(acknowledged)) {
        match events.poll().await? {
            Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => acknowledged += 1,
            Event::Incoming(Packet::Publish(message)) => is_done |= message.topic == DONE,
            _ => {}
        }
        if sent.is_none() && publishing.is_finished() {
            sent = Some((&mut publishing).await??);
        }
    }
    watch.report(sent.ok_or("rig/done came too early")?);
    Ok(())
}

async fn round_trips(task: &Task, client: &AsyncClient, events: &mut EventLoop) -> Outcome {
    client.subscribe(DATA, qos(task)).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let mut times = Vec::new();
    let watch = Stopwatch::start(task);
    while watch.elapsed() < task.duration {
        let start = Instant::now();
        client.publish(DATA, qos(task), false, [b'x'; 64]).await?;
        let (mut is_acknowledged, mut is_back) = (task.qos() == 0, false);
        while !(is_acknowledged && is_back) {
            match events.poll().await? {
                Event::Incoming(Packet::Publish(_)) => is_back = true,
                Event::Incoming(Packet::PubAck(_)) => is_acknowledged = true,
                _ => {}
            }
        }
        times.push(start.elapsed());
    }
    report_round_trips(&watch, &mut times);
    Ok(())
}

/// Many connections. Each answers every message.
async fn clients(task: &Task) -> Outcome {
    let count = task.numbers.first().copied().unwrap_or(1);
    let before = status("VmRSS").unwrap_or(0);
    let start = Instant::now();
    for _ in 0..count {
        let (client, mut events) = connect(task).await?;
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let echo = client.try_publish(
                            "rig/echoed",
                            QoS::AtMostOnce,
                            false,
                            message.payload,
                        );
                        echo.expect("the channel has room");
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        });
    }
    println!(
        "connect={:.4} before={before}",
        start.elapsed().as_secs_f64()
    );
    std::future::pending().await
}
