//! The server's side of WebSocket (RFC 6455), as fast as can be: frames of any size, read and written without copies of
//! their own.

use std::io::{self, ErrorKind, Read, Write};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most bytes of a request.
const LONGEST_REQUEST: usize = 8192;
/// A final binary frame, and the opcode of a closing one.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x08;

/// A stream of the bytes in the frames of another stream.
pub struct WebSocket<S> {
    stream: S,
    /// How many bytes of the present frame are still to come.
    left: u64,
    mask: [u8; 4],
    /// How many bytes of the frame have been unmasked.
    unmasked: usize,
    /// Bytes received ahead.
    ahead: Vec<u8>,
    taken: usize,
}

impl<S: Read + Write> WebSocket<S> {
    /// Answers the handshake.
    pub fn accept(mut stream: S) -> io::Result<Self> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
            if request.len() > LONGEST_REQUEST {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let key = request
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .ok_or(ErrorKind::InvalidData)?
            .1;
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            base64(hash.as_ref())
        );
        stream.write_all(answer.as_bytes())?;
        stream.flush()?;
        Ok(Self {
            stream,
            left: 0,
            mask: [0; 4],
            unmasked: 0,
            ahead: Vec::new(),
            taken: 0,
        })
    }

    /// The next byte of a frame's header.
    fn byte(&mut self) -> io::Result<u8> {
        if self.taken == self.ahead.len() {
            // Few bytes: what is read here is copied, and the rest of the frame is not.
            self.ahead.resize(1 << 10, 0);
            self.taken = 0;
            let read = self.stream.read(&mut self.ahead)?;
            self.ahead.truncate(read);
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.taken += 1;
        Ok(self.ahead[self.taken - 1])
    }

    /// Reads the header of the next frame. Returns false at the end of the stream.
    fn begin_frame(&mut self) -> io::Result<bool> {
        let first = match self.byte() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            first => first?,
        };
        let short = self.byte()? & 0x7F;
        let size = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.left = u64::from(if size == 0 { short } else { 0 });
        for _ in 0..size {
            self.left = self.left << 8 | u64::from(self.byte()?);
        }
        for i in 0..4 {
            self.mask[i] = self.byte()?;
        }
        self.unmasked = 0;
        Ok(first & 0x0F != CLOSE)
    }
}

impl<S: Read + Write> Read for WebSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if !self.begin_frame()? {
                return Ok(0);
            }
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let ready = self.ahead.len() - self.taken;
        let read = if ready > 0 {
            let read = ready.min(most);
            buffer[..read].copy_from_slice(&self.ahead[self.taken..self.taken + read]);
            self.taken += read;
            read
        } else {
            self.stream.read(&mut buffer[..most])?
        };
        self.mask.rotate_left(self.unmasked % 4);
        self.unmasked = read;
        unmask(&mut buffer[..read], self.mask);
        self.left -= read as u64;
        Ok(read)
    }
}

impl<S: Read + Write> Write for WebSocket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut header = vec![BINARY];
        match bytes.len() {
            length @ 0..126 => header.push(length as u8),
            length @ 126..0x10000 => {
                header.push(126);
                header.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                header.push(127);
                header.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        self.stream.write_all(&header)?;
        self.stream.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Pieces of a fixed size become instructions on many bytes at once.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let mask: [u8; 32] = std::array::from_fn(|index| mask[index % 4]);
    let mut pieces = bytes.chunks_exact_mut(mask.len());
    for piece in &mut pieces {
        for (byte, mask) in piece.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in pieces.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (i, byte)| {
            bits | u32::from(*byte) << (16 - 8 * i)
        });
        for i in 0..4 {
            if i <= chunk.len() {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
