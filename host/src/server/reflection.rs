//! gRPC server reflection, versions 1 and 1 alpha: the host's own services and those of the active module. A swap of
//! modules is seen by the next call; tonic's reflection does the answering.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use telegraft_sandbox::{Digest, MachineReader};
use tonic::{body::Body, server::NamedService, service::Routes};
use tower::Service;

/// Serves reflection; `ALPHA` chooses the version of the protocol.
#[derive(Clone)]
pub struct Reflection<const ALPHA: bool> {
    machine: MachineReader,
    built: Arc<Mutex<Option<Built>>>,
}

/// A service, and the module it was built for; None where none was active.
struct Built {
    module: Option<Digest>,
    routes: Routes,
}

impl<const ALPHA: bool> Reflection<ALPHA> {
    /// Reflection of what `machine` has active.
    pub fn new(machine: MachineReader) -> Self {
        Self { machine, built: Arc::default() }
    }

    /// The service for the module that is active now.
    fn current(&self) -> Result<Routes, String> {
        let active = self.machine.active();
        let digest = active.as_ref().map(|active| active.record.digest);
        let mut built = self.built.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(built) = built.as_ref()
            && built.module == digest
        {
            return Ok(built.routes.clone());
        }
        let module = active.as_ref().map(|active| active.service.as_ref()).unwrap_or_default();
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(telegraft_proto::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(module);
        let routes = if ALPHA {
            Routes::new(builder.build_v1alpha().map_err(|e| e.to_string())?)
        } else {
            Routes::new(builder.build_v1().map_err(|e| e.to_string())?)
        };
        *built = Some(Built { module: digest, routes: routes.clone() });
        Ok(routes)
    }
}

impl NamedService for Reflection<false> {
    const NAME: &'static str = "grpc.reflection.v1.ServerReflection";
}

impl NamedService for Reflection<true> {
    const NAME: &'static str = "grpc.reflection.v1alpha.ServerReflection";
}

impl<const ALPHA: bool> Service<http::Request<Body>> for Reflection<ALPHA> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.current() {
            Ok(mut routes) => Box::pin(routes.call(request)),
            Err(e) => {
                let status = tonic::Status::internal(format!("the module's descriptors cannot be served: {e}"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
