//! The endpoint for credentials of containers (ECS, EKS Pod Identity): an HTTP client for the SDK's
//! provider.
//!
//! The SDK parses one form of `Expiration`, and botocore all forms that `dateutil` accepts, which
//! servers in place of AWS use. Times that can be parsed are converted to the SDK's form;
//! everything else is unchanged.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::date_time::Format;
use zeroize::Zeroizing;

use crate::profile::time;

/// A client that calls `inner`, and converts the times in responses.
pub(super) fn client(inner: SharedHttpClient) -> SharedHttpClient {
    SharedHttpClient::new(Client(inner))
}

#[derive(Debug)]
struct Client(SharedHttpClient);

#[derive(Debug)]
struct Connector(SharedHttpConnector);

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let called = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut response: HttpResponse = called.await?;
            if response.status().is_success() {
                let body = std::mem::replace(response.body_mut(), SdkBody::empty());
                let body = ByteStream::new(body).collect().await;
                let body = body.map_err(|error| ConnectorError::io(error.into()))?.into_bytes();
                let body = with_utc(&body).unwrap_or_else(|| body.to_vec());
                // The SDK compares it with the length of the body.
                response.headers_mut().remove("content-length");
                *response.body_mut() = SdkBody::from(body);
            }
            Ok(response)
        })
    }
}

/// The same credentials, with the time in the form of RFC 3339; `None` if no time can be parsed.
fn with_utc(body: &[u8]) -> Option<Vec<u8>> {
    let mut credentials: serde_json::Value = serde_json::from_slice(body).ok()?;
    let expiration = credentials.get_mut("Expiration")?;
    let time = DateTime::from(time::parse(expiration.as_str()?)?);
    *expiration = time.fmt(Format::DateTime).ok()?.into();
    let text = Zeroizing::new(credentials.to_string());
    Some(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_another_form_is_converted_to_that_of_the_sdk() {
        let body = |time: &str| format!(r#"{{"AccessKeyId":"A","Expiration":"{time}"}}"#);
        for time in
            ["2099-01-01T00:00:00.000+00:00", "2099-01-01 00:00:00Z", "2099-01-01T00:00:00Z"]
        {
            let read = with_utc(body(time).as_bytes()).expect(time);
            assert_eq!(String::from_utf8(read).expect("text"), body("2099-01-01T00:00:00Z"));
        }
        for other in [&body("soon"), r#"{"Expiration":1}"#, "{}", "[]", "no JSON"] {
            assert_eq!(with_utc(other.as_bytes()), None, "{other}");
        }
    }
}
