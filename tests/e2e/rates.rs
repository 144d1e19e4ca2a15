//! The rate of a rule, with a machine's broker.

use std::time::Instant;

use rustix::process::Signal;
use sigward_proto::v1::broker_client::BrokerClient;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::setup::{World, connect, own_uid, ping};

/// Signs until the rate is used up, and returns the number of signatures.
async fn use_up(world: &World, client: &mut BrokerClient<Channel>) -> u64 {
    for signed in 0..1000 {
        let Err(refused) = client.sign(ping(world, "dev")).await else { continue };
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED", "{refused}");
        assert!(details.retry_info().is_some());
        return signed;
    }
    panic!("there is no rate");
}

/// A reload refills no bucket, whatever it changes.
#[tokio::test]
async fn a_reload_does_not_refill_a_used_up_rate() {
    let world = World::new().await;
    let config = |more: &str| {
        world.configuration(&format!(
            "{more}[[rule]]\nname = \"agents\"\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\n\
             rate = {{ per_second = 1, burst = 100 }}\n",
            own_uid()
        ))
    };
    let broker = world.broker(&config("")).await;
    let mut client = connect(&world.socket()).await;
    let started = Instant::now();
    let first = use_up(&world, &mut client).await;
    assert!((100..=101 + started.elapsed().as_secs()).contains(&first), "{first}");
    let used_up = Instant::now();
    let other = "[[profile]]\nname = \"other\"\nendpoints = [\"upstream\"]\n\
                 [[rule]]\nname = \"others\"\npeer = { uid = 54321 }\nprofiles = [\"other\"]\n";
    world.write("broker.toml", &config(other));
    broker.signal(Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    // Since then, one signature a second was added.
    let again = use_up(&world, &mut client).await;
    assert!(again <= used_up.elapsed().as_secs() + 1, "{again} after {:?}", used_up.elapsed());
    let mut new = connect(&world.socket()).await;
    let again = use_up(&world, &mut new).await;
    assert!(again <= used_up.elapsed().as_secs() + 1, "a new connection: {again}");
}
