//! See the library.

fn main() -> std::process::ExitCode {
    slsml_server::main()
}
