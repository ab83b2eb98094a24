//! How a serving process takes memory from the system.
//!
//! A cold start touches all of its memory for the first time, and each page costs a fault of more
//! than a microsecond: a third of the time to load several megabytes of weights. How much is needed
//! is known beforehand, so a second thread has the system provide it while the first one works.
//! And a process that answers one request at a time uses the same memory for each of them, so it
//! should not go back to the system in between.
//!
//! Large pages are left alone: they are ten times as fast where the host keeps the memory of a
//! virtual machine, and several times as slow where it takes free memory back (`docs/load-path.md`).
#![allow(unsafe_code)]

/// Makes the heap one piece that stays, large enough to load a model of so many bytes. To be called
/// once, at the start. Where the system or the C library cannot do it, nothing changes.
pub(crate) fn make_one_piece(model_bytes: u64) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::make_one_piece(model_bytes);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = model_bytes;
}

/// Touches what is going to be used next, beside this thread.
pub(crate) fn touch_ahead(bytes: u64) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::touch(bytes);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = bytes;
}

/// Gives memory that is free back to the system, which costs milliseconds: for a process that has had
/// more to do than it usually has.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::give_back();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    const PAGE: usize = 4096;
    /// What requests and activations may need beside the model before the heap grows again.
    const BESIDE_THE_MODEL: usize = 64 << 20;
    /// By how much the heap grows beyond its first size.
    const LATER_STEPS: libc::c_int = 1 << 20;
    /// So much is touched at a time: the other thread's own faults wait for no longer than that.
    const STEP: usize = 256 << 10;

    pub(super) fn make_one_piece(model_bytes: u64) {
        let Some(reserve) = reserve(model_bytes) else { return };
        // SAFETY: mallopt only changes how the allocator takes memory from the system.
        let set = |option, value| unsafe { libc::mallopt(option, value) } == 1;
        // -1: never.
        let is_set = set(libc::M_MMAP_MAX, 0)
            && set(libc::M_ARENA_MAX, 1)
            && set(libc::M_TRIM_THRESHOLD, -1)
            && set(libc::M_TOP_PAD, reserve);
        if is_set {
            // More than the allocator has at the start: it asks the system for the reserve. A
            // system that limits address space may refuse.
            let mut more = Vec::<u8>::new();
            let _reserved_or_refused = more.try_reserve_exact(2 << 20);
            drop(std::hint::black_box(more));
            set(libc::M_TOP_PAD, LATER_STEPS);
        }
    }

    /// The heap's first size, which is address space and not memory: no more than half of the
    /// machine's memory.
    fn reserve(model_bytes: u64) -> Option<libc::c_int> {
        // SAFETY: sysconf reads a number.
        let read = |name| unsafe { usize::try_from(libc::sysconf(name)).ok() };
        let half = read(libc::_SC_PHYS_PAGES)?.checked_mul(read(libc::_SC_PAGESIZE)?)? / 2;
        let model = usize::try_from(model_bytes).ok()?;
        let wanted = model.checked_mul(2)?.checked_add(BESIDE_THE_MODEL)?;
        wanted.min(half).min(libc::c_int::MAX as usize).try_into().ok()
    }

    pub(super) fn give_back() {
        // SAFETY: only memory that nobody has is given back.
        unsafe { libc::malloc_trim(0) };
    }

    /// Has the system provide the pages that the heap gives out next.
    pub(super) fn touch(bytes: u64) {
        // SAFETY: both only read: where the heap ends, and how much of its end is free.
        let (end, heap) = unsafe { (libc::sbrk(0) as usize, libc::mallinfo()) };
        // Its numbers wrap at 2 GB, and then less is provided ahead. mallinfo2 would need glibc
        // 2.33, which what is built for older systems has not.
        let (Ok(free), Ok(all_free)) =
            (usize::try_from(heap.keepcost), usize::try_from(heap.fordblks))
        else {
            return;
        };
        // What was used and given back is used again before the heap's end is.
        let holes = all_free.saturating_sub(free);
        let Some(start) = end.checked_sub(free) else { return };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(holes).min(free);
        let (first, last) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
        let provide = move || {
            for at in (first..last).step_by(STEP) {
                let length = STEP.min(last - at);
                // SAFETY: providing a page changes nothing that is in it; where there is none, or
                // none to write to, the system says so.
                let done = unsafe {
                    libc::madvise(at as *mut libc::c_void, length, libc::MADV_POPULATE_WRITE)
                };
                if done != 0 {
                    return; // an older system: pages come one by one
                }
            }
        };
        if first < last {
            // Without the thread it is only slower.
            drop(std::thread::Builder::new().name("heap".into()).spawn(provide));
        }
    }
}
