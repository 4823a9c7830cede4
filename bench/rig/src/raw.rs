//! The tightest loop over a blocking socket for each task. No client can be faster.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use rustix::event::epoll;
use rustls::{ClientConnection, StreamOwned};

use crate::program::{OUTSTANDING, Outcome, Stopwatch, Task, report_round_trips, status};
use crate::tls;
use crate::wire::*;

/// Does a task. If it is to be `relayed`, another thread reads and writes the connection, and each side is woken by the
/// other: no client whose connections live in a thread of their own can be faster.
pub fn run(task: &Task, relayed: bool) -> Outcome {
    if task.what == "clients" {
        return clients(task);
    }
    if let Some(path) = &task.unix {
        return Client::connect(UnixStream::connect(path)?)?.run(task);
    }
    let stream = TcpStream::connect((&*task.host, task.port))?;
    stream.set_nodelay(true)?;
    if relayed {
        let (stream_of_client, stream_of_thread) = UnixStream::pair()?;
        thread::spawn(move || relay(stream, stream_of_thread));
        return Client::connect(stream_of_client)?.run(task);
    }
    match &task.ca {
        Some(ca) => {
            let name = task.host.clone().try_into()?;
            let connection = ClientConnection::new(tls::client(ca)?, name)?;
            Client::connect(StreamOwned::new(connection, stream))?.run(task)
        }
        None => Client::connect(stream)?.run(task),
    }
}

/// Passes bytes on, both ways.
fn relay(mut server: TcpStream, mut client: UnixStream) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let of_server = epoll::EventData::new_u64(0);
    epoll::add(&epoll, &server, of_server, epoll::EventFlags::IN)?;
    let of_client = epoll::EventData::new_u64(1);
    epoll::add(&epoll, &client, of_client, epoll::EventFlags::IN)?;
    let mut bytes = [0; 2048];
    let mut events = Vec::with_capacity(2);
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == 0 {
                let count = server.read(&mut bytes)?;
                client.write_all(&bytes[..count])?;
            } else {
                let count = client.read(&mut bytes)?;
                server.write_all(&bytes[..count])?;
            }
        }
    }
}

/// Many connections. Each answers every message with a read and a write. This shows the kernel's cost for both, and for
/// finding the connection that has bytes.
fn clients(task: &Task) -> Outcome {
    let count = task.numbers.first().copied().unwrap_or(1);
    let before = status("VmRSS").unwrap_or(0);
    let start = Instant::now();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect((&*task.host, task.port))?;
        stream.set_nodelay(true)?;
        stream.write_all(&connect("rig-raw"))?;
        stream.read_exact(&mut [0; 4])?;
        let number = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &stream, number, epoll::EventFlags::IN)?;
        streams.push(stream);
    }
    println!(
        "connect={:.4} before={before}",
        start.elapsed().as_secs_f64()
    );
    let mut echo = Vec::new();
    publish(&mut echo, 4, 0, 0, "rig/echoed", &[b'x'; 64]);
    let mut message = [0; 1024];
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let stream = &mut streams[event.data.u64() as usize];
            // The message is small enough to come whole.
            if stream.read(&mut message)? == 0 {
                return Ok(());
            }
            stream.write_all(&echo)?;
        }
    }
}

struct Client<S> {
    stream: S,
    reader: Reader,
    /// Packets to send once all received packets have been handled.
    out: Vec<u8>,
}

impl<S: Read + Write> Client<S> {
    fn connect(mut stream: S) -> io::Result<Self> {
        stream.write_all(&connect("rig-raw"))?;
        let mut client = Self {
            stream,
            reader: Reader::new(),
            out: Vec::new(),
        };
        while !client.receive(|_, packet| packet.kind() == CONNACK)? {}
        Ok(client)
    }

    fn run(mut self, task: &Task) -> Outcome {
        match &*task.what {
            "receive" => self.receive_messages(task)?,
            "publish" if task.qos() == 0 => self.publish(task)?,
            "publish" => self.publish_acknowledged(task)?,
            "roundtrip" => self.round_trips(task)?,
            what => return Err(format!("raw does not know '{what}'").into()),
        }
        Ok(())
    }

    /// Waits for bytes, and hands over the packets in them together with the output to append to. Returns whether one
    /// of them was the awaited packet, as `handle` says.
    fn receive(
        &mut self,
        mut handle: impl FnMut(&mut Vec<u8>, Packet<'_>) -> bool,
    ) -> io::Result<bool> {
        if !self.reader.fill(&mut self.stream)? {
            return Err(io::Error::other("the broker has closed the connection"));
        }
        let mut found = false;
        while let Some(packet) = self.reader.next() {
            found |= handle(&mut self.out, packet);
        }
        self.send()?;
        Ok(found)
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.stream.flush()?;
            self.out.clear();
        }
        Ok(())
    }

    fn receive_messages(&mut self, task: &Task) -> io::Result<()> {
        publish(&mut self.out, 4, 0, 0, &task.receive_topic(), &[]);
        let watch = Stopwatch::start(task);
        self.send()?;
        let mut count = 0;
        while !self.receive(|out, packet| {
            if packet.topic() == DONE.as_bytes() {
                return true;
            }
            count += 1;
            if packet.qos() == 1 {
                acknowledgement(out, PUBACK, packet.id());
            }
            false
        })? {}
        watch.report(count);
        Ok(())
    }

    fn publish(&mut self, task: &Task) -> io::Result<()> {
        let count = (CHUNK / task.size()).max(1);
        let mut buffer = Vec::new();
        for _ in 0..count {
            publish(&mut buffer, 4, 0, 0, DATA, &vec![b'x'; task.size()]);
        }
        let watch = Stopwatch::start(task);
        let mut sent = 0;
        while watch.elapsed() < task.duration {
            self.stream.write_all(&buffer)?;
            sent += count as u64;
        }
        publish(&mut self.out, 4, 0, 0, "rig/end", &[]);
        self.send()?;
        while !self.receive(|_, packet| packet.kind() == PUBLISH)? {}
        watch.report(sent);
        Ok(())
    }

    fn publish_acknowledged(&mut self, task: &Task) -> io::Result<()> {
        let qos = task.qos();
        let payload = vec![b'x'; task.size()];
        let watch = Stopwatch::start(task);
        for id in 1..=OUTSTANDING {
            publish(&mut self.out, 4, qos, id as u16, DATA, &payload);
        }
        self.send()?;
        let (mut outstanding, mut acknowledged) = (OUTSTANDING, 0);
        while outstanding > 0 {
            let goes_on = watch.elapsed() < task.duration;
            self.receive(|out, packet| {
                if packet.kind() == PUBREC {
                    acknowledgement(out, PUBREL, packet.id());
                    return false;
                }
                acknowledged += 1;
                if goes_on {
                    publish(out, 4, qos, u16::from_be_bytes(packet.id()), DATA, &payload);
                } else {
                    outstanding -= 1;
                }
                false
            })?;
        }
        watch.report(acknowledged);
        Ok(())
    }

    /// Through a real broker: publishes to a topic that it has subscribed to, and waits for the message and its
    /// acknowledgement.
    fn round_trips(&mut self, task: &Task) -> io::Result<()> {
        let qos = task.qos();
        let length = (DATA.len() as u16).to_be_bytes();
        packet(
            &mut self.out,
            SUBSCRIBE | 2,
            &[&[0, 1], &length, DATA.as_bytes(), &[qos]],
        );
        self.send()?;
        while !self.receive(|_, packet| packet.kind() == SUBACK)? {}
        let mut times = Vec::new();
        let watch = Stopwatch::start(task);
        let mut id = 1;
        while watch.elapsed() < task.duration {
            id = id % 1000 + 1;
            publish(&mut self.out, 4, qos, id, DATA, &[b'x'; 64]);
            let start = Instant::now();
            self.send()?;
            let (mut is_acknowledged, mut is_back) = (qos == 0, false);
            while !(is_acknowledged && is_back) {
                self.receive(|out, packet| {
                    if packet.kind() == PUBLISH {
                        is_back = true;
                        if packet.qos() > 0 {
                            acknowledgement(out, PUBACK, packet.id());
                        }
                    } else {
                        is_acknowledged = true;
                    }
                    false
                })?;
            }
            times.push(start.elapsed());
        }
        report_round_trips(&watch, &mut times);
        Ok(())
    }
}
