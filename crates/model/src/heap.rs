//! How a serving process takes memory from the system.
//!
//! A cold start touches all of its memory for the first time, and a page of 4 KiB costs a fault of
//! more than a microsecond: a third of the time to load several megabytes of weights. Pages of
//! 2 MiB cost a tenth of that for each byte. And a process that answers one request at a time uses
//! the same memory for each of them, so it should not go back to the system in between.
#![allow(unsafe_code)]

/// Large pages come in this size on x86_64 and arm64 with pages of 4 KiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_PAGE: usize = 2 << 20;

/// What requests and activations may need beside the model before the heap grows again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const BESIDE_THE_MODEL: usize = 64 << 20;

/// Makes the heap one piece that grows in large steps, prefers large pages and stays. To be called
/// once, at the start of a program that serves a model of so many bytes. Address space is taken,
/// memory only as it is used. Where the system or the C library cannot do it, nothing changes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn prepare(model_bytes: u64) {
    let Some(reserve) = reserve(model_bytes) else { return };
    let Ok(top_pad) = libc::c_int::try_from(reserve) else { return };
    // SAFETY: mallopt only changes how the allocator takes memory from the system.
    let set = |option, value| unsafe { libc::mallopt(option, value) } == 1;
    let is_set = set(libc::M_MMAP_MAX, 0)
        && set(libc::M_TRIM_THRESHOLD, libc::c_int::MAX)
        && set(libc::M_TOP_PAD, top_pad);
    if is_set {
        grow();
        prefer_large_pages(reserve);
    }
}

/// Large pages are the C library's and the system's to give; elsewhere nothing changes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn prepare(_model_bytes: u64) {}

/// The heap's first size: no more than half of the machine's memory, and nothing on a machine too
/// small to tell.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn reserve(model_bytes: u64) -> Option<usize> {
    // SAFETY: sysconf reads a number.
    let [pages, page] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE]
        .map(|name| unsafe { usize::try_from(libc::sysconf(name)).ok() });
    let half = pages?.checked_mul(page?)? / 2;
    let model = usize::try_from(model_bytes).ok()?;
    let wanted = model.checked_mul(2)?.checked_add(BESIDE_THE_MODEL)?;
    Some(wanted.min(half)).filter(|reserve| *reserve > LARGE_PAGE)
}

/// Has the allocator take the reserve: it asks the system when what it has is too little.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn grow() {
    // More than any allocator starts with, less than the reserve.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_PAGE)));
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn prefer_large_pages(reserve: usize) {
    // SAFETY: the heap ends at the break; sbrk(0) only reads it.
    let end = unsafe { libc::sbrk(0) } as usize;
    let Some(start) = end.checked_sub(reserve) else { return };
    let start = start.next_multiple_of(LARGE_PAGE);
    let end = end / LARGE_PAGE * LARGE_PAGE;
    if start < end {
        // SAFETY: advice on pages does not change what they hold. If it is refused, pages are small.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}
