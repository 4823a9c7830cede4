//! What Unix has of the process.

use std::os::fd::BorrowedFd;
use std::sync::Once;

use crate::{driver, net::OwnedSocket};

/// Registers handlers that tell the driver of forks and of the end of the process.
pub(crate) fn watch() {
    unsafe extern "C" fn in_child() {
        driver::forked();
        #[cfg(feature = "store")]
        for descriptor in crate::forks::lock::of_the_parent() {
            // SAFETY: only a lock of the parent has had the descriptor, and it leaves it alone in this process.
            unsafe {
                libc::close(descriptor);
            }
        }
    }
    extern "C" fn at_exit() {
        driver::exiting();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(not(target_os = "linux"))]
        pin();
        // SAFETY: the handlers live as long as the process, since the module is never unloaded. `in_child`
        // only stores to atomics and closes descriptors, which is allowed between fork and exec. `at_exit` neither panics nor exits.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
            libc::atexit(at_exit);
        }
    });
}

/// Keeps the module loaded: Lua unloads modules when a state closes, while our threads may still run. On Linux build.rs does
/// so. RTLD_NODELETE, in dlopen(3) of macOS and the BSDs, is for this; RTLD_NOLOAD finds a library that is loaded already.
#[cfg(not(target_os = "linux"))]
fn pin() {
    // SAFETY: `dladdr` fills the structure, or returns 0. The name of the file lives as long as the module.
    unsafe {
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
        if libc::dladdr((pin as fn()) as *const _, info.as_mut_ptr()) != 0 {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
            libc::dlopen(info.assume_init().dli_fname, flags);
        }
    }
}

/// Blocks all signals in the calling thread: they are for the program's threads, which a signal may have to interrupt.
pub(crate) fn block_signals() {
    // SAFETY: the set is initialized by the first call, and only this thread's mask is changed.
    unsafe {
        let mut all = std::mem::MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Duplicates the descriptor of a socket of the program. Returns `None` if the descriptor is not open or no socket, or if
/// the process may open no more descriptors.
pub(crate) fn own_socket(fd: u32) -> Option<OwnedSocket> {
    let fd = i32::try_from(fd).ok()?;
    // SAFETY: the descriptor is used during this call only, and the system returns an error if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let socket = fd.try_clone_to_owned().ok()?;
    socket2::SockRef::from(&socket).r#type().ok()?;
    Some(socket)
}
