//! Evaluates the policies with an evaluator for the elements that they use: effects, `Action`,
//! `NotAction`, `BoolIfExists`. `ReadOnlyAccess` is represented by a few of its patterns.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::config::{Config, parse};

/// A few actions of AWS's managed policy, as patterns.
const READ_ONLY: &str = r#"{"Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*","ec2:Describe*","sts:Get*"],"Resource":"*"}]}"#;

/// Whether a session with these policies may do what its role may do.
fn allows(policies: &SessionPolicies, action: &str, via_mcp: bool) -> bool {
    let managed = policies.arns.iter().map(|arn| {
        assert_eq!(arn, "arn:aws:iam::aws:policy/ReadOnlyAccess");
        READ_ONLY
    });
    let texts = policies.policy.as_deref().into_iter().chain(managed);
    let statements: Vec<Value> = texts
        .flat_map(|text| {
            let policy: Value = serde_json::from_str(text).expect("JSON");
            policy["Statement"].as_array().expect("statements").clone()
        })
        .collect();
    let applies = |statement: &Value| {
        let listed = |key: &str| match &statement[key] {
            Value::Null => None,
            Value::String(one) => Some(matches(one, action)),
            many => {
                let mut patterns = many.as_array().expect("a list").iter();
                Some(patterns.any(|it| matches(it.as_str().expect("a text"), action)))
            }
        };
        let of_action = match (listed("Action"), listed("NotAction")) {
            (Some(named), None) => named,
            (None, Some(named)) => !named,
            _ => panic!("{statement}"),
        };
        let condition = match &statement["Condition"] {
            Value::Null => true,
            // The key exists only if the server makes the call.
            condition => {
                assert_eq!(condition["BoolIfExists"]["aws:ViaAWSMCPService"], "false");
                !via_mcp
            }
        };
        assert_eq!(statement["Resource"], "*");
        of_action && condition
    };
    let effect = |effect: &str| statements.iter().any(|it| it["Effect"] == effect && applies(it));
    effect("Allow") && !effect("Deny")
}

fn matches(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => action.starts_with(start),
        None => pattern == action,
    }
}

fn config(host: &str, lines: &str) -> Result<Config, String> {
    let text = format!(
        "[[endpoint]]\nname = \"one\"\nurl = \"https://{host}/mcp\"\n\
         [[profile]]\nname = \"dev\"\nendpoints = [\"one\"]\n{lines}\n"
    );
    parse(&text, Path::new("broker.toml"), 1).map_err(|faults| faults.to_string())
}

fn policies(host: &str, lines: &str) -> SessionPolicies {
    let config = config(host, lines).expect("valid");
    let profile = &config.profiles[0];
    let mut policies = profile.guard_rails.as_ref().expect("guard rails").policies("aws");
    policies.arns.extend(profile.role.iter().flat_map(|role| role.session_policy_arns.clone()));
    policies
}

const AWS_MCP: &str = "aws-mcp.us-east-1.api.aws";
const EKS_MCP: &str = "eks-mcp.us-east-1.api.aws";
const READ: &str = "access = \"read-only\"";
const VIA: &str = "only_via_mcp = true";

#[test]
fn each_allow_has_its_deny() {
    let both = format!("{READ}\n{VIA}");
    // Managed policies of the configuration keep their meaning.
    let own = format!(
        "{VIA}\nrole_arn = \"arn:aws:iam::1:role/X\"\nsession_policy_arns = [\"arn:aws:iam::aws:policy/ReadOnlyAccess\"]"
    );
    // The host, the settings, the action, whether it is called through the server, whether it is
    // allowed.
    for (host, lines, action, via, allowed) in [
        (AWS_MCP, READ, "s3:GetObject", false, true),
        (AWS_MCP, READ, "s3:GetObject", true, true),
        (AWS_MCP, READ, "s3:DeleteBucket", true, false),
        (AWS_MCP, READ, "eks-mcp:InvokeMcp", false, false),
        (AWS_MCP, VIA, "s3:DeleteBucket", true, true),
        (AWS_MCP, VIA, "s3:DeleteBucket", false, false),
        (AWS_MCP, VIA, "s3:GetObject", false, false),
        (AWS_MCP, VIA, "eks-mcp:InvokeMcp", false, false),
        (AWS_MCP, &both, "s3:GetObject", true, true),
        (AWS_MCP, &both, "s3:GetObject", false, false),
        (AWS_MCP, &both, "s3:DeleteBucket", true, false),
        (AWS_MCP, &own, "s3:GetObject", true, true),
        (AWS_MCP, &own, "s3:GetObject", false, false),
        (AWS_MCP, &own, "s3:DeleteBucket", true, false),
        (EKS_MCP, &own, "eks-mcp:InvokeMcp", false, true),
        // Calls to servers that have actions of their own come from the broker's callers.
        (EKS_MCP, READ, "eks-mcp:InvokeMcp", false, true),
        (EKS_MCP, READ, "eks-mcp:CallReadOnlyTool", false, true),
        (EKS_MCP, READ, "eks-mcp:CallPrivilegedTool", false, false),
        (EKS_MCP, VIA, "eks-mcp:CallPrivilegedTool", false, true),
        (EKS_MCP, VIA, "eks-mcp:DeleteEverything", false, false),
        (EKS_MCP, &both, "eks-mcp:CallReadOnlyTool", false, true),
        (EKS_MCP, &both, "eks-mcp:CallPrivilegedTool", false, false),
        (EKS_MCP, &both, "ec2:DescribeInstances", true, true),
        (EKS_MCP, &both, "ec2:DescribeInstances", false, false),
        ("ecs-mcp.us-east-1.api.aws", READ, "ecs-mcp:InvokeMcp", false, true),
        ("ecs-mcp.us-east-1.api.aws", READ, "ecs:DeleteCluster", true, false),
        ("x.execute-api.eu-west-1.amazonaws.com", &both, "execute-api:Invoke", false, true),
        (
            "x.execute-api.eu-west-1.amazonaws.com",
            &both,
            "execute-api:ManageConnections",
            false,
            false,
        ),
        ("x.lambda-url.eu-west-1.on.aws", VIA, "lambda:InvokeFunctionUrl", false, true),
        ("x.lambda-url.eu-west-1.on.aws", VIA, "lambda:UpdateFunctionCode", false, false),
    ] {
        let policies = policies(host, lines);
        assert_eq!(
            allows(&policies, action, via),
            allowed,
            "{host} {lines} {action} {via}: {policies:?}"
        );
    }
}

#[test]
fn the_managed_policy_is_that_of_the_role_s_partition() {
    let config = config(AWS_MCP, READ).expect("valid");
    let rails = config.profiles[0].guard_rails.clone().expect("guard rails");
    for (role, arn) in [
        ("arn:aws:iam::1:role/X", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
        ("arn:aws-cn:iam::1:role/X", "arn:aws-cn:iam::aws:policy/ReadOnlyAccess"),
        ("nonsense", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
    ] {
        assert_eq!(rails.policies(partition(role)).arns, [arn]);
    }
    assert_eq!(rails.policies("aws").policy, None, "the broker adds nothing");
}

#[test]
fn settings_that_would_permit_more_are_errors() {
    let role = "role_arn = \"arn:aws:iam::123456789012:role/X\"\n";
    for (host, lines, word) in [
        (AWS_MCP, "access = \"all\"".to_owned(), "must be \"read-only\""),
        (AWS_MCP, format!("{READ}\n{role}session_policy = '{{}}'"), "session_policy"),
        (AWS_MCP, format!("{VIA}\n{role}session_policy = '{{}}'"), "session_policy"),
        (
            AWS_MCP,
            format!(
                "{READ}\n{role}session_policy_arns = [\"arn:aws:iam::aws:policy/AdministratorAccess\"]"
            ),
            "add up",
        ),
        ("connect.aidevops.us-east-1.api.aws", VIA.to_owned(), "aidevops"),
    ] {
        let fault = config(host, &lines).expect_err(word);
        assert!(fault.contains(word) && fault.contains("profile[0]"), "{fault}");
    }
    // A deny also narrows managed policies.
    let arns = "session_policy_arns = [\"arn:aws:iam::aws:policy/ReadOnlyAccess\"]";
    config(AWS_MCP, &format!("{VIA}\n{role}{arns}")).expect("valid");
    assert!(
        config(AWS_MCP, "only_via_mcp = false").expect("valid").profiles[0].guard_rails.is_none()
    );
}

/// STS would refuse each load.
#[test]
fn too_long_policies_are_an_error() {
    let arn =
        |number: usize| format!("\"arn:aws:iam::123456789012:policy/{}{number}\"", "x".repeat(225));
    let lines = |count: usize| {
        let arns: Vec<_> = (0..count).map(arn).collect();
        format!(
            "{VIA}\nrole_arn = \"arn:aws:iam::123456789012:role/X\"\nsession_policy_arns = [{}]",
            arns.join(", ")
        )
    };
    config(AWS_MCP, &lines(6)).expect("they fit");
    let fault = config(AWS_MCP, &lines(8)).expect_err("too long");
    assert!(fault.contains("STS takes 2048"), "{fault}");
}
