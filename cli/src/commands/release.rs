//! `slsml release promote` and `abort`: ending a release by hand, from any machine.

use serde_json::json;
use slsml_lambda::AliasTarget;
use slsml_release::Split;
use slsml_release::ports::Target;

use crate::args::{Release, ReleaseTarget};
use crate::commands::invoke::function;
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: Release,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (ReleaseTarget { place, alias }, promote) = match args {
        Release::Promote(target) => (target, true),
        Release::Abort(target) => (target, false),
    };
    let function = function(settings, place.function.clone())?;
    let alias = settings.alias(alias);
    let place = Place::connect(&place, settings).await?;
    let target = AliasTarget::new(&place.clients, &function, &alias);
    let seen = target.observe().await?;
    let Some(split) = seen.split else {
        return Err(slsml_lambda::LambdaError::NoAlias { function, alias }.into());
    };
    let Some((candidate, _)) = split.candidate else {
        let value =
            json!({ "function": function, "alias": alias, "changed": false, "split": split });
        return printer.result(&value, || {
            format!("Nothing to do: no release of {alias} of {function} is under way, version {} has all traffic.", split.stable)
        });
    };
    let all = Split::all_to(if promote { candidate } else { split.stable });
    target.route(&all, seen.token.as_ref()).await?;
    let value = json!({ "function": function, "alias": alias, "changed": true, "split": all });
    printer.result(&value, || {
        let what = if promote { "Promoted" } else { "Aborted" };
        format!("{what}: version {} has all traffic of {alias} of {function}.", all.stable)
    })
}
