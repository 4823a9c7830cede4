//! A message whose payload its publisher lends to the task for a while. The task writes the payload from where it lies.
//! When the publisher wants the payload back, the unwritten rest is copied.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// At most one message. It comes before all other bytes that the session has to transmit.
#[derive(Default)]
pub(super) struct Large(Option<Box<Lent>>);

struct Lent {
    /// The bytes that go before the payload, until the task takes them.
    head: BytesMut,
    /// The unwritten rest of the payload.
    payload: Bytes,
}

impl Large {
    pub(super) fn lend(&mut self, head: BytesMut, payload: Bytes) {
        self.0 = Some(Box::new(Lent { head, payload }));
    }

    /// Whether a payload has not been written to its end.
    pub(super) fn is_lent(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the payload comes next, because the task has taken the bytes before it.
    pub(super) fn is_next(&self) -> bool {
        self.0.as_ref().is_some_and(|lent| lent.head.is_empty())
    }

    /// Takes the bytes that go before the payload. The task writes them first.
    pub(super) fn take_head(&mut self) -> Option<BytesMut> {
        self.0.as_mut().map(|lent| std::mem::take(&mut lent.head))
    }

    /// Writes the bytes `before`, and then the payload if it comes next. Returns how many bytes of both were written.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        before: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(lent) = self.0.as_mut().filter(|lent| lent.head.is_empty()) else {
            return Pin::new(stream).poll_write(cx, before);
        };
        let parts = [IoSlice::new(before), IoSlice::new(&lent.payload)];
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, &parts))?;
        lent.payload.advance(written.saturating_sub(before.len()));
        if lent.payload.is_empty() {
            self.0 = None;
        }
        Poll::Ready(Ok(written))
    }

    /// Ends the loan. Returns the head if the task has not taken it, and the unwritten rest of the payload.
    pub(super) fn end(&mut self) -> Option<(BytesMut, Bytes)> {
        self.0.take().map(|lent| (lent.head, lent.payload))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes at most `at_a_time` bytes at a time, in one piece.
    struct Stream {
        at_a_time: usize,
        written: Vec<u8>,
    }

    impl AsyncWrite for Stream {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let taken = bytes.len().min(self.at_a_time);
            if taken == 0 {
                return Poll::Pending;
            }
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn stream(at_a_time: usize) -> Stream {
        Stream {
            at_a_time,
            written: Vec::new(),
        }
    }

    fn lent(payload: &Bytes) -> Large {
        let mut large = Large::default();
        large.lend(BytesMut::from(&b"head"[..]), payload.clone());
        large
    }

    fn write(large: &mut Large, stream: &mut Stream, before: &[u8]) -> Option<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match large.poll_write(stream, before, &mut cx) {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_payload_is_written_after_its_head_piece_by_piece() {
        for at_a_time in 1..20 {
            let payload = Bytes::from(b"payload".to_vec());
            let (mut large, mut stream) = (lent(&payload), stream(at_a_time));
            let mut head = large.take_head().unwrap();
            while large.is_next() {
                let written = write(&mut large, &mut stream, &head).unwrap();
                head.advance(written.min(head.len()));
            }
            assert_eq!(stream.written, b"headpayload");
            assert!(!large.is_lent() && large.end().is_none());
            assert!(payload.is_unique(), "nothing refers to it");
        }
    }

    #[test]
    fn the_payload_waits_until_its_head_has_been_taken() {
        let payload = Bytes::from(b"payload".to_vec());
        let (mut large, mut stream) = (lent(&payload), stream(100));
        assert!(large.is_lent() && !large.is_next());
        assert_eq!(write(&mut large, &mut stream, b"earlier"), Some(7));
        assert_eq!(stream.written, b"earlier");
        assert_eq!(large.take_head().unwrap(), &b"head"[..]);
        assert!(large.is_next());
        // The task has written all bytes, and asks again.
        assert!(large.take_head().unwrap().is_empty());
        assert!(large.is_next());
    }

    #[test]
    fn what_was_not_written_comes_back() {
        let payload = Bytes::from(b"payload".to_vec());
        let mut large = lent(&payload);
        let (head, rest) = large.end().unwrap();
        assert_eq!((&head[..], &rest[..]), (&b"head"[..], &b"payload"[..]));

        let (mut large, mut stream) = (lent(&payload), stream(6));
        let head = large.take_head().unwrap();
        assert_eq!(write(&mut large, &mut stream, &head), Some(6));
        stream.at_a_time = 0;
        assert_eq!(write(&mut large, &mut stream, b""), None);
        let (head, rest) = large.end().unwrap();
        assert_eq!((&head[..], &rest[..]), (&b""[..], &b"yload"[..]));
        assert!(!large.is_lent() && large.take_head().is_none());
    }
}
