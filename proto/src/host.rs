//! Derives the scope of signatures from the name of an AWS host.
//!
//! The forms are those that AWS documents for its MCP servers, functions and gateways. Labels are compared as a whole
//! and from the end, so that `aws-mcp.us-east-1.api.aws.example.com` doesn't match.

/// Service and regions of a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostScope<'a> {
    /// The signing name, such as `aws-mcp`.
    pub service: &'a str,
    /// A region, for SigV4; or `*` for all regions, for SigV4a.
    pub regions: &'a str,
}

impl<'a> HostScope<'a> {
    /// The scope of `host`, which must be in lower case; `None` if it isn't a documented AWS host
    /// name.
    #[must_use]
    pub fn of(host: &'a str) -> Option<Self> {
        let labels: Vec<&str> = host.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        let (service, regions) = match labels.as_slice() {
            // The label before the service is ignored: `connect.aidevops.us-east-1.api.aws`.
            [service, region, "api", "aws"] | [_, service, region, "api", "aws"] => {
                (without_fips(service), *region)
            }
            [head @ .., "amazonaws", "com", "cn"] | [head @ .., "amazonaws", "com"] => match head {
                [service, region] | [_, "gateway" | "runtime", service, region]
                    if without_fips(service) == "bedrock-agentcore" =>
                {
                    ("bedrock-agentcore", *region)
                }
                [_, service, region] if without_fips(service) == "execute-api" => {
                    ("execute-api", *region)
                }
                _ => return None,
            },
            // Lambda Web Functions have one label or two before the service's name.
            [_, "lambda-web", "global", "on", "aws"]
            | [_, _, "lambda-web", "global", "on", "aws"] => {
                return Some(Self { service: "lambda", regions: "*" });
            }
            [_, "lambda-url" | "lambda-web", region, "on", "aws"]
            | [_, _, "lambda-web", region, "on", "aws"] => ("lambda", *region),
            _ => return None,
        };
        looks_like_region(regions).then_some(Self { service, regions })
    }
}

fn without_fips(label: &str) -> &str {
    label.strip_suffix("-fips").unwrap_or(label)
}

/// Whether a label has the form of a region: `eu-west-1`, `us-gov-east-1`, `cn-north-1`.
fn looks_like_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return false };
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    !middle.is_empty()
        && word(first)
        && middle.iter().all(word)
        && !last.is_empty()
        && last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_and_regions_follow_from_the_host() {
        let known = [
            ("aws-mcp.us-east-1.api.aws", "aws-mcp", "us-east-1"),
            ("aws-mcp-fips.us-gov-west-1.api.aws", "aws-mcp", "us-gov-west-1"),
            ("eks-mcp.eu-west-1.api.aws", "eks-mcp", "eu-west-1"),
            ("ecs-mcp.ap-southeast-2.api.aws", "ecs-mcp", "ap-southeast-2"),
            ("connect.aidevops.us-east-1.api.aws", "aidevops", "us-east-1"),
            ("other.aidevops-fips.us-west-2.api.aws", "aidevops", "us-west-2"),
            ("bedrock-agentcore.us-west-2.amazonaws.com", "bedrock-agentcore", "us-west-2"),
            ("bedrock-agentcore-fips.us-east-1.amazonaws.com", "bedrock-agentcore", "us-east-1"),
            ("bedrock-agentcore.cn-north-1.amazonaws.com.cn", "bedrock-agentcore", "cn-north-1"),
            (
                "gw-abc.gateway.bedrock-agentcore.eu-central-1.amazonaws.com",
                "bedrock-agentcore",
                "eu-central-1",
            ),
            (
                "gw-abc.gateway.bedrock-agentcore-fips.us-east-1.amazonaws.com",
                "bedrock-agentcore",
                "us-east-1",
            ),
            (
                "gw.gateway.bedrock-agentcore.cn-north-1.amazonaws.com.cn",
                "bedrock-agentcore",
                "cn-north-1",
            ),
            ("x1.execute-api.us-east-2.amazonaws.com", "execute-api", "us-east-2"),
            ("x1.execute-api-fips.us-east-2.amazonaws.com", "execute-api", "us-east-2"),
            ("x1.execute-api.cn-northwest-1.amazonaws.com.cn", "execute-api", "cn-northwest-1"),
            ("fn1.lambda-url.us-east-1.on.aws", "lambda", "us-east-1"),
            ("fn1.lambda-web.eu-west-1.on.aws", "lambda", "eu-west-1"),
            ("fn1.rest.lambda-web.eu-west-1.on.aws", "lambda", "eu-west-1"),
            ("fn1.lambda-web.global.on.aws", "lambda", "*"),
            ("fn1.rest.lambda-web.global.on.aws", "lambda", "*"),
        ];
        for (host, service, regions) in known {
            assert_eq!(HostScope::of(host), Some(HostScope { service, regions }), "{host}");
        }
    }

    #[test]
    fn other_hosts_have_no_scope() {
        for host in [
            "example.com",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "aws-mcp.us-east-1.api.aws.example.com",
            "evil-api.aws",
            "a.b.aws-mcp.us-east-1.api.aws",
            ".aws-mcp.us-east-1.api.aws",
            "aws-mcp.nowhere.api.aws",
            "aws-mcp.us-east-1.notapi.aws",
            "aws-mcp.global.api.aws",
            "knowledge-mcp.global.api.aws",
            "s3.us-east-1.amazonaws.com",
            "execute-api.us-east-1.amazonaws.com.example.com",
            "x.lambda-url.us-east-1.on.aws.example.com",
            "x.lambda-url.global.on.aws",
            "lambda-web.us-east-1.on.aws",
            "lambda-web.global.on.aws",
            "a.b.c.lambda-web.us-east-1.on.aws",
            "a.b.lambda-url.us-east-1.on.aws",
            "",
        ] {
            assert_eq!(HostScope::of(host), None, "{host}");
        }
    }
}
