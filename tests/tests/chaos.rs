//! A few releases that are killed and refused on their way; `make chaos` does it hundreds of times.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use slsml_e2e::chaos::{Arena, Harm, On, PLANS};

#[tokio::test(flavor = "multi_thread")]
async fn harmed_releases_end_as_undisturbed_ones_and_nobody_notices() {
    harm_some(On::Lambda).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_on_cloud_run_do_so_too() {
    harm_some(On::Cloudrun).await;
}

async fn harm_some(on: On) {
    let mut arena = Arena::open(on).unwrap();
    let harms = [
        (0, Harm::KillBefore, 0.3),
        (4, Harm::KillAfter, 0.25),
        (1, Harm::KillAfter, 0.2),
        (2, Harm::DropAfter, 0.27),
        (5, Harm::Error, 0.17),
    ];
    let mut struck = 0;
    for (plan, harm, along) in harms {
        let trial = arena.trial(plan, harm, along).await.unwrap();
        assert_eq!(trial.note, None, "{:?}: {trial:?}", PLANS[plan]);
        struck += usize::from(trial.struck);
    }
    assert!(struck == 5, "{struck} came to their fault");
}
