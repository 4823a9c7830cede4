//! What concerns the whole process: forks, its end, signals and descriptors.

/// Has the driver told of forks and of the end of the process, once in a process.
pub(crate) fn watch() {
    #[cfg(unix)]
    {
        use std::sync::Once;

        use crate::driver;

        unsafe extern "C" fn in_child() {
            driver::forked();
        }
        extern "C" fn at_exit() {
            driver::exiting();
        }
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handlers live as long as the process, since the module is never unloaded (build.rs). The one
            // only stores to atomics, which is allowed between fork and exec; the other neither panics nor exits.
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
                libc::atexit(at_exit);
            }
        });
    }
}

/// Leaves every signal to the threads of the program, which may wait to be interrupted by it.
pub(crate) fn block_signals() {
    #[cfg(unix)]
    {
        // SAFETY: the set is initialized by the first call, and only this thread's mask is changed.
        unsafe {
            let mut all = std::mem::MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
        }
    }
}

/// A descriptor of our own for the file that one of the program's is for. None if that is not open, or there are no more.
#[cfg(unix)]
pub(crate) fn own_descriptor(fd: u32) -> Option<std::os::fd::OwnedFd> {
    let fd = i32::try_from(fd).ok()?;
    // SAFETY: it is used during this call only, and the system returns an error for one that is not open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned().ok()
}
