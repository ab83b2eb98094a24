//! What tract asks of the processor.
#![allow(unsafe_code)]

/// Tells tract whose processor this is, in a process of one thread. It would ask the processor
/// itself for every product of matrices, and in a virtual machine each question takes the host a
/// microsecond or more.
pub(crate) fn name_vendor() {
    #[cfg(target_arch = "x86_64")]
    if std::env::var_os(VARIABLE).is_none() && is_alone() {
        // SAFETY: no other thread reads or writes the environment: there is none.
        unsafe { std::env::set_var(VARIABLE, vendor()) };
    }
}

/// What tract reads before it asks the processor.
#[cfg(target_arch = "x86_64")]
const VARIABLE: &str = "TRACT_X86_KIND";

#[cfg(target_arch = "x86_64")]
fn vendor() -> &'static str {
    let id = std::arch::x86_64::__cpuid(0);
    match &*[id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() {
        b"GenuineIntel" => "intel",
        b"AuthenticAMD" => "amd",
        _ => "other",
    }
}

/// Whether this process has no other thread, where the system tells.
#[cfg(target_arch = "x86_64")]
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}
