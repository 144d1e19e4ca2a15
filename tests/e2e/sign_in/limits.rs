//! What a sign-in costs AWS, and when: nothing before it is recorded, and not as often as a caller likes.

use std::time::Instant;

use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::{ListProfilesRequest, LoginRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{broker_of, signed_out};
use crate::setup::{connect, own_uid, ping};

fn person() -> LoginRequest {
    LoginRequest { profile: "person".to_owned() }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// As with signatures: what can't be recorded doesn't happen. AWS hears nothing of it either.
#[tokio::test]
async fn a_sign_in_that_cannot_be_recorded_is_not_begun() {
    let (world, aws) = signed_out().await;
    let _broker = broker_of(&world, &aws, true, "/dev/full".as_ref()).await;
    let mut client = connect(&world.socket()).await;
    for _ in 0..15 {
        let refused = client.login(person()).await.expect_err("there is no record");
        assert_eq!(reason(&refused), "AUDIT_UNAVAILABLE", "{refused}");
    }
    assert_eq!(aws.sign_ins(), [""; 0], "AWS was asked");
}

/// The attack: sign-ins are opened and dropped in a loop, and AWS is asked for a code for each, until it limits all of us.
#[tokio::test]
async fn sign_ins_that_are_dropped_have_a_rate() {
    let (world, aws) = signed_out().await;
    let audit = world.directory.path().join("audit.jsonl");
    let _broker = broker_of(&world, &aws, true, &audit).await;
    let mut client = connect(&world.socket()).await;
    let started = Instant::now();
    let mut begun = 0;
    let refused = loop {
        match client.login(person()).await {
            Ok(events) => {
                let shown = events.into_inner().message().await.unwrap().and_then(|it| it.event);
                assert!(matches!(shown, Some(Event::Prompt(_))), "{shown:?}");
                begun += 1;
            }
            Err(status) => break status,
        }
        assert!(begun < 500, "there is no rate");
    };
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(begun <= 20 + seconds + 1, "{begun} in {seconds} s");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(refused.get_error_details().retry_info().is_some());
    let codes = aws.sign_ins().iter().filter(|it| *it == "/device_authorization").count();
    assert!(codes <= begun, "{codes} codes for {begun} sign-ins");
    // Everything else that this user asks for goes on.
    client.sign(ping(&world, "dev")).await.unwrap();
    client.list_profiles(ListProfilesRequest {}).await.unwrap();
    let denied = super::records(&audit, "call");
    assert!(denied.iter().any(|it| it["reason"] == "RATE_LIMITED" && it["uid"] == own_uid()));
}
