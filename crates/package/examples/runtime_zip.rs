//! Puts a runtime into the zip it ships in: `runtime_zip PROGRAM ZIP`. Zopfli takes its time once
//! here, and no user's `slsml package` compresses the runtime again.

use std::error::Error;

use slsml_package::{BOOTSTRAP, Entry, Method, Runtime, zip};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(program), Some(to)) = (args.next(), args.next()) else {
        return Err("usage: runtime_zip PROGRAM ZIP".into());
    };
    let runtime = Runtime::read(program.as_ref())?;
    let entry = Entry {
        path: BOOTSTRAP,
        bytes: &runtime.bytes,
        executable: true,
        method: Method::Zopfli,
        zipped: None,
    };
    std::fs::write(to, zip(&[entry], None)?)?;
    Ok(())
}
