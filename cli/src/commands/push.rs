//! `slsml push`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use slsml_cloudrun::{Fate, Layout, Push, Pushed, Repository, credentials, push};
use slsml_package::Artifact;

use crate::args;
use crate::commands::package::bytes;
use crate::failure::{Exit, Failure};
use crate::place::{local_home, running};
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
            let running = running(&local_home(args.local_dir)?)?;
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
    let from = args.mount_from.as_deref();
    let pushed = bring(&layout, &to, &tags, from, printer).await?;
    let has = |fate: Fate| pushed.blobs.iter().any(|blob| blob.fate == fate);
    if let Some(from) = from.filter(|_| has(Fate::Sent) && !has(Fate::Mounted)) {
        printer.note(&format!("Nothing could be taken over from {from}: it has none of the image's blobs, or not for you"));
    }
    printer.result(&json!(pushed), || text(&pushed))
}

/// Brings an image to its repository, and says how far it is.
pub(super) async fn bring(
    layout: &Layout,
    to: &Repository,
    tags: &[String],
    mount_from: Option<&str>,
    printer: &Printer,
) -> Result<Pushed, Failure> {
    let credentials = &credentials(to.registry()).await?;
    let step = printer.step(&format!("Pushing to {to}"));
    let tenths = AtomicU64::new(0);
    let told = move |there: u64, all: u64| {
        // A text for each tenth: nobody reads one for each of thousands of pieces.
        let tenth = (there * 10).checked_div(all).unwrap_or(10);
        if tenths.fetch_max(tenth, Ordering::Relaxed) < tenth {
            step.say(&format!("{} of {} are there", bytes(there), bytes(all)));
        }
    };
    Ok(push(&Push { layout, to, mount_from, tags, credentials }, told).await?)
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
