//! Where a function or a service is: on its cloud, or on the local cloud of this machine.

use std::path::PathBuf;

use slsml_cloudrun::Google;
use slsml_lambda::{Clients, Connect};
use slsml_local::{Home, Running};

use crate::args::{CloudrunArgs, PlaceArgs};
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// A place to deploy to.
pub(crate) struct Place {
    pub(crate) clients: Clients,
    pub(crate) local: bool,
    local_dir: Option<PathBuf>,
}

impl Place {
    pub(crate) async fn connect(args: &PlaceArgs, settings: &Settings) -> Result<Place, Failure> {
        let connect = match args.local {
            true => local(args.local_dir.clone())?,
            false => Connect {
                region: args.region.clone().or_else(|| settings.lambda.region.clone()),
                ..Connect::default()
            },
        };
        let clients = Clients::connect(&connect).await?;
        Ok(Place { clients, local: args.local, local_dir: args.local_dir.clone() })
    }

    /// The role of a new function.
    pub(crate) fn role(&self, flag: Option<String>, settings: &Settings) -> Option<String> {
        match self.local {
            // Roles of an account mean nothing here.
            true => Some(flag.unwrap_or_else(|| slsml_local::ROLE_ARN.into())),
            false => flag.or_else(|| settings.lambda.role.clone()),
        }
    }

    /// The folder with the journals of what is released here, where no bucket holds them.
    pub(crate) fn journals(&self) -> Result<PathBuf, Failure> {
        journals(self.local, &self.local_dir)
    }
}

fn journals(local: bool, local_dir: &Option<PathBuf>) -> Result<PathBuf, Failure> {
    match local {
        true => Ok(local_home(local_dir.clone())?.dir().join("releases")),
        false => Ok(state_folder()?.join("slsml/releases")),
    }
}

/// A project and a region of Google Cloud.
pub(crate) struct CloudrunPlace {
    pub(crate) google: Google,
    pub(crate) local: bool,
    /// The address of the local registry.
    pub(crate) registry: Option<String>,
    local_dir: Option<PathBuf>,
}

impl CloudrunPlace {
    pub(crate) fn connect(args: &CloudrunArgs, settings: &Settings) -> Result<Self, Failure> {
        let mut registry = None;
        let connect = match args.local {
            true => {
                let running = running(&local_home(args.local_dir.clone())?)?;
                registry = Some(running.address.to_string());
                slsml_cloudrun::Connect {
                    project: slsml_local::PROJECT.into(),
                    region: "local".into(),
                    endpoint: Some(running.endpoint()),
                }
            }
            false => settings.cloudrun_connect(args)?,
        };
        let (local, local_dir) = (args.local, args.local_dir.clone());
        Ok(CloudrunPlace { google: Google::connect(connect)?, local, registry, local_dir })
    }

    /// The folder with the journals of what is released here.
    pub(crate) fn journals(&self) -> Result<PathBuf, Failure> {
        journals(self.local, &self.local_dir)
    }
}

fn local(dir: Option<PathBuf>) -> Result<Connect, Failure> {
    let running = running(&local_home(dir)?)?;
    Ok(Connect {
        endpoint: Some(running.endpoint()),
        region: Some(slsml_local::REGION.into()),
        credentials: Some((slsml_local::ACCESS_KEY.into(), slsml_local::SECRET_KEY.into())),
    })
}

/// The local cloud that runs in a folder.
pub(crate) fn running(home: &Home) -> Result<Running, Failure> {
    home.running()?.ok_or_else(|| not_running(home))
}

pub(crate) fn not_running(home: &Home) -> Failure {
    let message = format!("no local cloud runs in {}", home.dir().display());
    Failure::new(Exit::Cloud, message).help("start it: slsml local up --detach")
}

/// The folder named, or the one in the user's state folder.
pub(crate) fn local_home(dir: Option<PathBuf>) -> Result<Home, Failure> {
    if let Some(dir) = dir {
        return Ok(Home::new(std::path::absolute(dir)?));
    }
    let state = state_folder()?;
    Ok(Home::new(state.join("slsml/local")))
}

/// The user's folder for what programs remember.
fn state_folder() -> Result<PathBuf, Failure> {
    let state =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")));
    state.ok_or_else(|| Failure::usage("there is no home folder").help("set XDG_STATE_HOME"))
}
