//! What Windows has of the process. The names of functions are those under which Microsoft documents them.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::os::windows::io::{BorrowedSocket, RawSocket};
use std::ptr::null_mut;
use std::sync::Once;

use windows_sys::Win32::Foundation::{FALSE, FARPROC, TRUE};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::Win32::System::LibraryLoader::{
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_PIN, GetModuleHandleA,
    GetModuleHandleExW, GetProcAddress,
};
use windows_sys::core::BOOL;

use crate::{driver, net::OwnedSocket};

/// Keeps the module loaded, and registers handlers that tell the driver of the console and of the end of the process.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        pin();
        watch_exit();
        // SAFETY: the module, and so the handler, stays until the process ends.
        unsafe { SetConsoleCtrlHandler(Some(on_console), TRUE) };
    });
}

/// Lua unloads modules when a state closes, while our threads may still run. GET_MODULE_HANDLE_EX_FLAG_PIN: "The module
/// stays loaded until the process is terminated, no matter how many times FreeLibrary is called."
fn pin() {
    let mut module = null_mut();
    let address: fn() = pin;
    // SAFETY: with FROM_ADDRESS the name is any address in the module.
    unsafe {
        GetModuleHandleExW(
            GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
            address as *const u16,
            &raw mut module,
        );
    }
}

/// The C runtimes that a host may use, and their functions that add to the list which `exit` goes through. `atexit` in a DLL
/// adds to a list of the DLL's own, for DLL_PROCESS_DETACH. When this comes, ExitProcess has ended all other threads, and
/// nothing can be sent any more.
const RUNTIMES: [(&CStr, &CStr); 9] = [
    (c"ucrtbase.dll", c"_crt_atexit"),
    (c"ucrtbased.dll", c"_crt_atexit"),
    (c"msvcrt.dll", c"_onexit"),
    (c"msvcr120.dll", c"_onexit"),
    (c"msvcr110.dll", c"_onexit"),
    (c"msvcr100.dll", c"_onexit"),
    (c"msvcr90.dll", c"_onexit"),
    (c"msvcr80.dll", c"_onexit"),
    (c"msvcr71.dll", c"_onexit"),
];

/// Has [`driver::exiting`] called by `exit` of each C runtime in the process: nothing tells which one the host will call. A
/// second call finds nothing to do. A runtime that is linked into the host has no such function.
fn watch_exit() {
    extern "C" fn at_exit() {
        driver::exiting();
    }
    extern "C" fn on_exit() -> c_int {
        driver::exiting();
        0
    }
    type Found = unsafe extern "system" fn() -> isize;
    type AtExit = unsafe extern "C" fn(extern "C" fn()) -> c_int;
    type OnExit = unsafe extern "C" fn(extern "C" fn() -> c_int) -> *mut c_void;
    for (library, name) in RUNTIMES {
        // SAFETY: both names end with a zero byte. The functions have these types. The handlers neither panic nor exit, and
        // stay until the process ends.
        unsafe {
            let module = GetModuleHandleA(library.as_ptr().cast());
            if module.is_null() {
                continue;
            }
            let register: FARPROC = GetProcAddress(module, name.as_ptr().cast());
            match register {
                None => {}
                Some(register) if name == c"_onexit" => {
                    transmute::<Found, OnExit>(register)(on_exit);
                }
                Some(register) => {
                    transmute::<Found, AtExit>(register)(at_exit);
                }
            }
        }
    }
}

/// Ctrl-C. The handler that was registered last comes first, and FALSE passes the event on, here to the host's: `signal` of
/// the C runtime has its handler called in the same thread.
unsafe extern "system" fn on_console(event: u32) -> BOOL {
    if matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        driver::interrupted();
    }
    FALSE
}

/// Windows has no signals.
pub(crate) fn block_signals() {}

/// Duplicates a SOCKET of the program. Returns `None` if it is none, or if the process may open no more.
pub(crate) fn own_socket(socket: u32) -> Option<OwnedSocket> {
    // SAFETY: the socket is used during this call only, and the system returns an error if it is none.
    let socket = unsafe { BorrowedSocket::borrow_raw(socket as RawSocket) };
    socket.try_clone_to_owned().ok()
}
