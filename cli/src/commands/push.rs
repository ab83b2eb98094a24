//! `slsml push`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use slsml_cloudrun::{Fate, Layout, Push, Pushed, Repository, credentials, push};
use slsml_package::Artifact;

use crate::args;
use crate::commands::package::bytes;
use crate::failure::{Exit, Failure};
use crate::place::{local_home, not_running};
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: args::Push,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let folder = settings.artifact(args.artifact)?;
    let artifact = Artifact::read(&folder)?;
    let image = artifact.for_cloudrun()?;
    let layout = Layout::open(&folder.join(&image.folder), &image.digest)?;
    let to = match args.local {
        true => {
            let home = local_home(args.local_dir)?;
            let running = home.running()?.ok_or_else(|| not_running(&home))?;
            format!("{}/{}", running.address, args.repository)
        }
        false => args.repository,
    };
    let (to, tag) = Repository::parse(&to)?;
    let mut tags = layout.tags();
    for tag in args.tags.into_iter().chain(tag) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let credentials = credentials(to.registry()).await?;
    let asked = Push {
        layout: &layout,
        to: &to,
        mount_from: args.mount_from.as_deref(),
        tags: &tags,
        credentials: &credentials,
    };
    let step = Arc::new(printer.step(&format!("Pushing to {to}")));
    let progress = AtomicU64::new(0);
    let told = {
        let step = step.clone();
        move |there: u64, all: u64| {
            // A line for each tenth, so that what is no terminal is not flooded.
            let tenth = (there * 10).checked_div(all).unwrap_or(10);
            if progress.fetch_max(tenth, Ordering::Relaxed) < tenth {
                step.say(&format!("{} of {} are there", bytes(there), bytes(all)));
            }
        }
    };
    let pushed = push(&asked, told).await?;
    drop(step);
    printer.result(&json!(pushed), || text(&pushed))
}

fn text(pushed: &Pushed) -> String {
    let of = |fate: Fate| {
        let blobs = pushed.blobs.iter().filter(|blob| blob.fate == fate);
        blobs.map(|blob| blob.bytes).sum::<u64>()
    };
    let mounted = match of(Fate::Mounted) {
        0 => String::new(),
        mounted => format!(", {} taken over", bytes(mounted)),
    };
    format!(
        "Pushed {image}\n  tags  {tags}\n  sent  {sent}{mounted}, {there} were there",
        image = pushed.image,
        tags = pushed.tags.join(", "),
        sent = bytes(of(Fate::Sent)),
        there = bytes(of(Fate::There)),
    )
}
