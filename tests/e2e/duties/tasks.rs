//! A task belongs to the profile that created it.

use serde_json::json;
use sigward_tests::upstream::Reply;

use super::{all, signed_by};
use crate::agent::{Agent, SESSIONS, STATELESS};
use crate::setup::{THREE, World, assert_names, rpc_error};

/// Up to 2025-11-25 the client requests a task, in 2026-07-28 the server decides: in both, all requests about the task
/// are signed by the profile of its call, in the same session.
#[tokio::test]
async fn requests_about_a_task_go_to_its_profile() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let kept = r#""taskId":"$","status":"working","createdAt":"2026-11-23T22:00:00Z","ttl":null,"x":1.10"#;
        for (id, profile) in [("t/1", "staging"), ("t/2", "dev"), ("t/3", "prod")] {
            let task = kept.replace('$', id);
            let result = match version {
                STATELESS => format!(r#"{{"resultType":"task",{task}}}"#),
                _ => format!(r#"{{"task":{{{task}}}}}"#),
            };
            world.upstream.next("tools/call", Reply::Result(result.clone()));
            let asks = if version == STATELESS { "" } else { r#","task":{"ttl":60000}"# };
            let params =
                format!(r#"{{"name":"echo","arguments":{{"aws_profile":"{profile}"}}{asks}}}"#);
            agent.start_request("tools/call", &params).await;
            let line = agent.expect_line("the task", |line| line.contains(id)).await;
            assert_names(&line, &[&result]);
            let call = signed_by(&world, "tools/call", profile).pop().unwrap();
            assert_names(call.text(), &[asks]);
        }
        let mut methods = vec!["tasks/get", "tasks/result", "tasks/cancel"];
        if version == STATELESS {
            methods.push("tasks/update");
        }
        for method in methods {
            for (id, profile) in
                [("t/1", "staging"), ("t/2", "dev"), ("t/3", "prod"), ("t/unknown", "dev")]
            {
                world.upstream.next(method, Reply::Result("{}".to_owned()));
                let done = agent.request(method, &json!({ "taskId": id }).to_string()).await;
                assert_eq!(done["result"], json!({}), "{side:?} {version} {method}: {done}");
                let sent = world.upstream.requests_of(method).pop().unwrap();
                assert_eq!(sent.param("/taskId"), id);
                assert_eq!(sent.identity(), world.home.identity(profile), "{side:?} {method}");
                let named = sent.header("mcp-name");
                assert_eq!(named, (version == STATELESS).then_some(id), "{side:?} {method}");
            }
        }
    }
}

/// Servers choose the ids of their tasks. While two live tasks have the same id, a request that doesn't name a profile
/// is refused: it could end the wrong task. An id that is reused after its task has ended stands for the later task.
#[tokio::test]
async fn two_tasks_with_one_id_are_never_mixed_up() {
    for side in crate::agent::SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        let begin = async |agent: &mut Agent, profile: &str| {
            let task = r#"{"task":{"taskId":"t","status":"working","ttl":null}}"#;
            world.upstream.next("tools/call", Reply::Result(task.to_owned()));
            let params = format!(
                r#"{{"name":"echo","arguments":{{"aws_profile":"{profile}"}},"task":{{"ttl":1}}}}"#
            );
            agent.request("tools/call", &params).await;
        };
        let sent = || world.upstream.requests_of("tasks/get");
        begin(&mut agent, "staging").await;
        begin(&mut agent, "prod").await;
        let refused = agent.request("tasks/get", r#"{"taskId":"t"}"#).await;
        let (code, why) = rpc_error(&refused);
        assert_eq!(code, -32602, "{side:?}");
        assert_names(why, &["staging", "prod", "sigward/profile"]);
        assert_eq!(sent().len(), 0, "{side:?}: no server is asked");
        for (profile, status) in [("prod", "working"), ("staging", "completed")] {
            let result = format!(r#"{{"taskId":"t","status":"{status}"}}"#);
            world.upstream.next("tasks/get", Reply::Result(result));
            let params = format!(r#"{{"taskId":"t","_meta":{{"sigward/profile":"{profile}"}}}}"#);
            agent.request("tasks/get", &params).await;
            let asked = sent().pop().unwrap();
            assert_eq!(asked.identity(), world.home.identity(profile), "{side:?}");
            assert!(!asked.text().contains("sigward/profile"), "{side:?}: {}", asked.text());
        }
        // One of them has ended.
        world.upstream.next("tasks/get", Reply::Result("{}".to_owned()));
        agent.request("tasks/get", r#"{"taskId":"t"}"#).await;
        assert_eq!(sent().pop().unwrap().identity(), world.home.identity("prod"), "{side:?}");
        world.upstream.next("tasks/result", Reply::Result(r#"{"content":[]}"#.to_owned()));
        agent.request("tasks/result", r#"{"taskId":"t"}"#).await;
        begin(&mut agent, "dev").await;
        world.upstream.next("tasks/get", Reply::Result("{}".to_owned()));
        agent.request("tasks/get", r#"{"taskId":"t"}"#).await;
        assert_eq!(sent().pop().unwrap().identity(), world.home.identity("dev"), "{side:?}");
    }
}
