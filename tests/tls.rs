//! Tests TLS on the loopback interface against servers of rustls, with certificates made on the spot.
//!
//! The private keys in `tls_keys/` were made with OpenSSL for these tests and guard nothing. They are one EC and one
//! RSA key, in the forms that their names say. Their password is `sesame`.

use std::{
    env, fs,
    io::IoSlice,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use mqtt_core::net::{
    OpenError, Secret, Stream, Target, TlsConfig, TlsOptions, TlsVersion, describe, open,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

const LONG: Duration = Duration::from_secs(30);
const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
const VERIFICATION: &str = "verification of the server's certificate failed: ";

// ---- certificates and files

type Ca = CertifiedIssuer<'static, KeyPair>;

/// A certificate chain and its key, in the form that a server takes.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn ca() -> Ca {
    named_ca("Test CA")
}

fn named_ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "Test server");
    params
}

fn issue(ca: &Ca, params: &CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (vec![certificate.into()], key.into())
}

/// A file in the build's own directory for temporary files. Each test has its own names.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls_keys")
        .join(name)
}

// ---- servers

fn server_config(
    (chain, key): Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// Like [`server_config`], but only for clients with a certificate of `ca`.
fn mutual_config(
    (chain, key): Identity,
    versions: &[&'static SupportedProtocolVersion],
    ca: &Ca,
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap()
}

/// Starts a server that sends back the bytes that it receives. Returns its port.
async fn serve(config: ServerConfig) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Most clients of these tests are there to fail.
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let (mut reader, mut writer) = tokio::io::split(&mut tls);
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = tls.shutdown().await;
                }
            });
        }
    });
    port
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Starts a server that answers the first bytes with `reply` and closes. Returns its port.
async fn reply(reply: &'static [u8]) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // Reads all of the ClientHello, because closing would otherwise reset the connection.
        let mut hello = vec![0; 5];
        tcp.read_exact(&mut hello).await.unwrap();
        hello.resize(usize::from(u16::from_be_bytes([hello[3], hello[4]])), 0);
        tcp.read_exact(&mut hello).await.unwrap();
        tcp.write_all(reply).await.unwrap();
    });
    port
}

// ---- clients

async fn connect(host: &str, port: u16, options: &TlsOptions) -> Result<Stream, OpenError> {
    let target = Target {
        tls: Some(TlsConfig::new(options).unwrap()),
        ..Target::tcp(host, port)
    };
    open(&target, LONG).await
}

/// The words for a connection that fails.
async fn failure(host: &str, port: u16, options: &TlsOptions) -> String {
    let text = connect(host, port, options).await.unwrap_err().to_string();
    let prefix = format!("TLS handshake with '{host}:{port}' failed: ");
    text.strip_prefix(&prefix).expect(&text).to_owned()
}

/// Sends bytes and gets them back, by every kind of write. Then closes properly.
async fn echo(mut stream: Stream) -> std::io::Result<()> {
    stream.write_all(b"one ").await?;
    assert!(stream.is_write_vectored());
    let parts = [IoSlice::new(b"two "), IoSlice::new(b"three")];
    assert_eq!(stream.write_vectored(&parts).await?, 9);
    stream.flush().await?;
    let mut received = [0; 13];
    stream.read_exact(&mut received).await?;
    assert_eq!(&received, b"one two three");
    stream.shutdown().await?;
    assert_eq!(stream.read(&mut received).await?, 0);
    Ok(())
}

fn session(stream: &Stream) -> &rustls::ClientConnection {
    match stream {
        Stream::Tls(tls) => tls.get_ref().1,
        other => panic!("{other:?}"),
    }
}

fn no_verification() -> TlsOptions {
    TlsOptions {
        verify: false,
        ..TlsOptions::default()
    }
}

fn trusting(cafile: PathBuf) -> TlsOptions {
    TlsOptions {
        cafile: Some(cafile),
        ..TlsOptions::default()
    }
}

// ---- what works

#[tokio::test]
async fn bytes_pass_both_ways_in_both_versions() {
    let ca = ca();
    let identity = issue(&ca, &params(&["localhost"]));
    let port = serve(server_config(identity, BOTH)).await;
    let cafile = file("both-versions.pem", &ca.pem());
    for (version, expected) in [
        (TlsVersion::Tls12, rustls::ProtocolVersion::TLSv1_2),
        (TlsVersion::Tls13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let options = TlsOptions {
            min_version: version,
            max_version: version,
            ..trusting(cafile.clone())
        };
        let stream = connect("localhost", port, &options).await.unwrap();
        assert_eq!(session(&stream).protocol_version(), Some(expected));
        echo(stream).await.unwrap();
    }
}

#[tokio::test]
async fn reconnects_resume_the_session() {
    let ca = ca();
    let identity = issue(&ca, &params(&["localhost"]));
    let port = serve(server_config(identity, BOTH)).await;
    let cafile = file("resumption.pem", &ca.pem());
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let options = TlsOptions {
            max_version: version,
            ..trusting(cafile.clone())
        };
        let target = Target {
            tls: Some(TlsConfig::new(&options).unwrap()),
            ..Target::tcp("localhost", port)
        };
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = open(&target.clone(), LONG).await.unwrap();
            assert_eq!(session(&stream).handshake_kind(), Some(expected));
            echo(stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn alpn_is_offered() {
    let ca = ca();
    let mut config = server_config(issue(&ca, &params(&["localhost"])), BOTH);
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let port = serve(config).await;
    let mut options = TlsOptions {
        alpn: vec![b"x".to_vec(), b"mqtt".to_vec()],
        ..trusting(file("alpn.pem", &ca.pem()))
    };
    let stream = connect("localhost", port, &options).await.unwrap();
    assert_eq!(session(&stream).alpn_protocol(), Some(&b"mqtt"[..]));

    options.alpn.pop();
    assert_eq!(
        failure("localhost", port, &options).await,
        "the server accepts none of the protocols offered by alpn"
    );
}

#[tokio::test]
async fn addresses_and_other_names_can_be_verified() {
    let ca = ca();
    let identity = issue(&ca, &params(&["127.0.0.1", "broker.example"]));
    let port = serve(server_config(identity, BOTH)).await;
    let mut options = trusting(file("names.pem", &ca.pem()));
    echo(connect("127.0.0.1", port, &options).await.unwrap())
        .await
        .unwrap();
    options.server_name = Some("broker.example".into());
    echo(connect("localhost", port, &options).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn roots_come_from_a_directory_of_any_names() {
    let ca = ca();
    let identity = issue(&ca, &params(&["localhost"]));
    let port = serve(server_config(identity, BOTH)).await;
    file("capath/README", "Roots live here.\n");
    let path = file("capath/our root.crt", &ca.pem());
    let options = TlsOptions {
        capath: path.parent().map(Into::into),
        ..TlsOptions::default()
    };
    echo(connect("localhost", port, &options).await.unwrap())
        .await
        .unwrap();
}

/// Certificates of `openssl req -x509`, which calls every certificate a CA's.
#[tokio::test]
async fn a_certificate_may_be_its_own_root() {
    let own_root = |is_ca, valid_until| {
        let mut params = params(&["localhost"]);
        params.is_ca = is_ca;
        params.not_after = date_time_ymd(valid_until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = certificate.pem();
        (pem, (vec![certificate.into()], PrivateKeyDer::from(key)))
    };
    let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
    for is_ca in [authority(), IsCa::ExplicitNoCa, IsCa::NoCa] {
        let what = format!("{is_ca:?}");
        let (pem, identity) = own_root(is_ca, 3000);
        let (other, _) = own_root(is_ca, 3000);
        let (expired, expired_identity) = own_root(is_ca, 2024);
        let port = serve(server_config(identity, BOTH)).await;
        let mut options = trusting(file("own-root/server.pem", &pem));
        echo(connect("localhost", port, &options).await.unwrap())
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));

        options.server_name = Some("broker.example".into());
        assert_eq!(
            failure("localhost", port, &options).await,
            format!("{VERIFICATION}it is not valid for name 'broker.example', only for localhost"),
        );
        // A certificate that differs only in its key.
        let others = trusting(file("own-root/other.pem", &other));
        let text = failure("localhost", port, &others).await;
        assert!(text.starts_with(VERIFICATION), "{what}: {text}");

        let port = serve(server_config(expired_identity, BOTH)).await;
        let options = trusting(file("own-root/expired.pem", &expired));
        assert_eq!(
            failure("localhost", port, &options).await,
            format!("{VERIFICATION}it expired on 2024-01-01")
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_issuer_may_be_a_root() {
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["localhost"]).signed_by(&key, &ca()).unwrap();
    let options = trusting(file("pinned.pem", &certificate.pem()));
    let port = serve(server_config((vec![certificate.into()], key.into()), BOTH)).await;
    echo(connect("localhost", port, &options).await.unwrap())
        .await
        .unwrap();
}

/// Runs itself in a process of its own: only so can the environment be another.
#[tokio::test]
async fn the_environment_names_the_system_roots() {
    const PORT: &str = "TLS_TEST_PORT";
    if let Ok(port) = env::var(PORT) {
        let stream = connect("localhost", port.parse().unwrap(), &TlsOptions::default()).await;
        return echo(stream.unwrap()).await.unwrap();
    }
    let ca = ca();
    let identity = issue(&ca, &params(&["localhost"]));
    let port = serve(server_config(identity, BOTH)).await;
    let path = file("environment/ca.pem", &ca.pem());
    let directory = path.parent().unwrap();
    for (variable, value) in [
        ("SSL_CERT_FILE", path.as_path()),
        ("SSL_CERT_DIR", directory),
    ] {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "the_environment_names_the_system_roots"])
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env(PORT, port.to_string())
            .env(variable, value);
        let output = tokio::task::spawn_blocking(move || child.output())
            .await
            .unwrap()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{variable}: {text}"
        );
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let ca = ca();
    let cafile = file("mutual/ca.pem", &ca.pem());
    let ec = fs::read_to_string(key_file("ec-pkcs8.pem")).unwrap();
    let rsa = fs::read_to_string(key_file("rsa-pkcs8.pem")).unwrap();
    let certificate = |pem: &str| {
        let key = KeyPair::from_pem(pem).unwrap();
        params(&["client"]).signed_by(&key, &ca).unwrap().pem()
    };
    let ec_certificate = file("mutual/ec.pem", &certificate(&ec));
    let rsa_certificate = file("mutual/rsa.pem", &certificate(&rsa));
    let one_file = file("mutual/both.pem", &(certificate(&ec) + &ec));
    let mut ports = Vec::new();
    for version in BOTH {
        let identity = issue(&ca, &params(&["localhost"]));
        ports.push(serve(mutual_config(identity, &[version], &ca)).await);
    }
    for (certificate, key) in [
        (&ec_certificate, Some("ec-pkcs8.pem")),
        (&ec_certificate, Some("ec-sec1.pem")),
        (&ec_certificate, Some("ec-pbkdf2.pem")),
        (&ec_certificate, Some("ec-scrypt.pem")),
        (&ec_certificate, Some("ec-3des.pem")),
        (&ec_certificate, Some("ec-3des-sha1.pem")),
        (&rsa_certificate, Some("rsa-pkcs1.pem")),
        (&rsa_certificate, Some("rsa-pkcs8.pem")),
        (&one_file, None),
    ] {
        let options = TlsOptions {
            certificate: Some(certificate.clone()),
            key: key.map(key_file),
            password: Some("sesame".into()),
            ..trusting(cafile.clone())
        };
        let tls = TlsConfig::new(&options).unwrap();
        for port in &ports {
            let target = Target {
                tls: Some(tls.clone()),
                ..Target::tcp("localhost", *port)
            };
            let stream = open(&target, LONG).await.unwrap();
            echo(stream)
                .await
                .unwrap_or_else(|error| panic!("{key:?}: {error}"));
        }
    }
}

#[tokio::test]
async fn a_server_may_leave_without_a_word() {
    let ca = ca();
    let acceptor: TlsAcceptor =
        Arc::new(server_config(issue(&ca, &params(&["localhost"])), BOTH)).into();
    let (listener, port) = listen().await;
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        tls.write_all(b"bye").await.unwrap();
        tls.flush().await.unwrap();
        // Dropped here: TCP is closed without close_notify.
    };
    let options = trusting(file("close.pem", &ca.pem()));
    let (stream, ()) = tokio::join!(connect("localhost", port, &options), server);
    let mut received = Vec::new();
    stream.unwrap().read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"bye");
}

// ---- certificates that are refused

#[tokio::test]
async fn a_refused_certificate_is_explained() {
    let (ours, other) = (ca(), named_ca("Other CA"));
    let options = trusting(file("refused.pem", &ours.pem()));
    let good = params(&["localhost"]);
    let mut expired = good.clone();
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2024, 2, 29);
    let mut future = good.clone();
    future.not_before = date_time_ymd(3000, 1, 1);
    future.not_after = date_time_ymd(3001, 1, 1);
    let mut for_clients = good.clone();
    for_clients.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let mut authority = good.clone();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        (vec![good.self_signed(&key).unwrap().into()], key.into())
    };
    for (identity, expected) in [
        (
            issue(&other, &good),
            "unknown issuer \"Other CA\"; the server sent no intermediate certificate; secure.cafile names a certificate to trust",
        ),
        (
            issue(&ca(), &good),
            "it is not signed with the key of its issuer; is that an older or newer CA of the same name?",
        ),
        (
            self_signed,
            "it is self-signed; secure.cafile names a certificate to trust",
        ),
        (issue(&ours, &expired), "it expired on 2024-02-29"),
        (issue(&ours, &future), "it is not valid before 3000-01-01"),
        (
            issue(&ours, &params(&["a.example", "127.0.0.2"])),
            "it is not valid for name 'localhost', only for a.example, 127.0.0.2",
        ),
        (
            issue(&ours, &params(&[])),
            "it is not valid for name 'localhost', it has no subjectAltName",
        ),
        (issue(&ours, &for_clients), "it was not issued for servers"),
        (
            issue(&ours, &authority),
            "it is a CA certificate, which may issue a server's certificate but not be one",
        ),
    ] {
        let port = serve(server_config(identity, BOTH)).await;
        let text = failure("localhost", port, &options).await;
        assert_eq!(text, format!("{VERIFICATION}{expected}"));
        let stream = connect("localhost", port, &no_verification())
            .await
            .unwrap();
        echo(stream).await.unwrap();
    }
}

#[tokio::test]
async fn a_chain_must_be_sent_up_to_a_root() {
    let root = named_ca("Test root");
    let mut intermediate = CertificateParams::default();
    intermediate.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    intermediate
        .distinguished_name
        .push(DnType::CommonName, "Test intermediate");
    let intermediate =
        CertifiedIssuer::signed_by(intermediate, KeyPair::generate().unwrap(), &root).unwrap();
    let (chain, key) = issue(&intermediate, &params(&["localhost"]));
    let whole = [chain.clone(), vec![intermediate.der().clone()]].concat();
    let incomplete = server_config((chain, key.clone_key()), BOTH);
    let complete = server_config((whole, key), BOTH);
    let (incomplete, complete) = (serve(incomplete).await, serve(complete).await);
    let trusted = trusting(file("chain/root.pem", &root.pem()));
    let others = trusting(file("chain/other.pem", &named_ca("Other root").pem()));

    let stream = connect("localhost", complete, &trusted).await.unwrap();
    echo(stream).await.unwrap();
    for (port, options, expected) in [
        (
            incomplete,
            &trusted,
            "unknown issuer \"Test intermediate\"; the server sent no intermediate certificate; secure.cafile names a certificate to trust",
        ),
        (
            complete,
            &others,
            "unknown issuer \"Test root\"; secure.cafile names a certificate to trust",
        ),
    ] {
        let text = failure("localhost", port, options).await;
        assert_eq!(text, format!("{VERIFICATION}{expected}"));
    }
}

#[tokio::test]
async fn a_refused_client_learns_why() {
    let (ours, other) = (ca(), named_ca("Other CA"));
    let cafile = file("refused-client/ca.pem", &ours.pem());
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["client"]).signed_by(&key, &other).unwrap();
    let certificate = file(
        "refused-client/client.pem",
        &(certificate.pem() + &key.serialize_pem()),
    );
    for version in BOTH {
        let identity = issue(&ours, &params(&["localhost"]));
        let port = serve(mutual_config(identity, &[version], &ours)).await;
        for (certificate, expected) in [
            (None, "the server wants a client certificate"),
            (
                Some(certificate.clone()),
                "the server rejected the client's certificate (UnknownCA)",
            ),
        ] {
            let options = TlsOptions {
                certificate,
                ..trusting(cafile.clone())
            };
            // In TLS 1.3 the client is done before the server has seen its certificate. The first read reports the
            // failure.
            let text = match connect("localhost", port, &options).await {
                Ok(mut stream) => describe(&stream.read_u8().await.unwrap_err()),
                Err(error) => error.to_string(),
            };
            assert!(text.ends_with(expected), "{version:?}: {text}");
        }
    }
}

// ---- servers that cannot be spoken to

#[tokio::test]
async fn a_server_without_tls_is_recognized() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x20\x02\x00\x01",
    ] {
        let port = reply(bytes).await;
        let text = failure("localhost", port, &no_verification()).await;
        assert_eq!(text, "the server does not speak TLS");
    }
    let port = reply(b"").await;
    assert_eq!(
        failure("localhost", port, &no_verification()).await,
        "the server closed the connection, perhaps it does not speak TLS on this port"
    );
}

#[tokio::test]
async fn a_server_of_another_version_is_recognized() {
    const VERSION: &str = "the server offers no acceptable TLS protocol version";
    // The alert protocol_version in a record of TLS 1.0.
    let alert = reply(b"\x15\x03\x01\x00\x02\x02\x46").await;
    assert_eq!(
        failure("localhost", alert, &no_verification()).await,
        VERSION
    );
    // A ServerHello of TLS 1.1 that picks TLS_RSA_WITH_AES_128_CBC_SHA.
    const HELLO: &[u8; 47] = b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02\
        0123456789abcdef0123456789abcdef\x00\x00\x2f\x00";
    let hello = reply(HELLO).await;
    assert_eq!(
        failure("localhost", hello, &no_verification()).await,
        VERSION
    );
    // Each version of ours alone.
    for (theirs, ours) in [(&TLS12, TlsVersion::Tls13), (&TLS13, TlsVersion::Tls12)] {
        let identity = issue(&ca(), &params(&["localhost"]));
        let port = serve(server_config(identity, &[theirs])).await;
        let options = TlsOptions {
            min_version: ours,
            max_version: ours,
            ..no_verification()
        };
        assert_eq!(failure("localhost", port, &options).await, VERSION);
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_times_out() {
    let (listener, port) = listen().await;
    let target = Target {
        tls: Some(TlsConfig::new(&no_verification()).unwrap()),
        ..Target::tcp("127.0.0.1", port)
    };
    let limit = Duration::from_millis(100);
    let (result, accepted): (_, std::io::Result<(TcpStream, _)>) =
        tokio::join!(open(&target, limit), listener.accept());
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("timed out after 0.1 s during the TLS handshake with '127.0.0.1:{port}': timeout")
    );
    drop(accepted.unwrap());
}

/// The server begins its answer and then falls silent.
#[tokio::test]
async fn a_handshake_that_stalls_times_out() {
    // The first half of a record's header, and the header of a record that does not come.
    for begun in [&b"\x16\x03"[..], b"\x16\x03\x03\x40\x00\x02\x00"] {
        let (listener, port) = listen().await;
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(begun).await.unwrap();
            tcp
        };
        let target = Target {
            tls: Some(TlsConfig::new(&no_verification()).unwrap()),
            ..Target::tcp("127.0.0.1", port)
        };
        let limit = Duration::from_millis(100);
        let (result, _tcp) = tokio::join!(open(&target, limit), server);
        assert_eq!(
            result.unwrap_err().to_string(),
            format!(
                "timed out after 0.1 s during the TLS handshake with '127.0.0.1:{port}': timeout"
            )
        );
    }
}

/// The answer of a TLS server to a client without TLS is no MQTT packet.
#[tokio::test]
async fn a_server_of_tls_answers_a_plain_client_with_an_alert() {
    let identity = issue(&ca(), &params(&["localhost"]));
    let target = Target::tcp("127.0.0.1", serve(server_config(identity, BOTH)).await);
    let mut stream = open(&target, LONG).await.unwrap();
    // A CONNECT.
    let connect = b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0";
    stream.write_all(connect).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer[..2], [0x15, 3]);
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_an_error() {
    let text = failure("a b", 1, &TlsOptions::default()).await;
    assert_eq!(
        text,
        "server name must be a host name or an IP address, got: 'a b'"
    );
}

// ---- options that are refused

#[test]
fn errors_name_the_option_and_the_file() {
    let ca = ca();
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["client"]).signed_by(&key, &ca).unwrap().pem();
    let certificate = file("errors/certificate.pem", &certificate);
    let empty = file("errors/empty.pem", "nothing\n");
    let broken = file("errors/broken.pem", &ca.pem().replace("MII", "M*I"));
    let missing = certificate.with_file_name("missing.pem");
    let directory = file("errors/empty/README", "nothing\n");
    let directory = directory.parent().unwrap().to_owned();
    let with_key = |name: &str, password: Option<&str>| TlsOptions {
        certificate: Some(certificate.clone()),
        key: Some(key_file(name)),
        password: password.map(Secret::from),
        ..no_verification()
    };
    let capath = |path: &Path| TlsOptions {
        capath: Some(path.into()),
        ..TlsOptions::default()
    };
    let only_key = TlsOptions {
        key: Some(key_file("ec-sec1.pem")),
        ..no_verification()
    };
    let only_certificate = TlsOptions {
        certificate: Some(certificate.clone()),
        ..no_verification()
    };
    let empty_certificate = TlsOptions {
        certificate: Some(empty.clone()),
        ..no_verification()
    };
    let sesame = Some("sesame");
    let convert = "convert it: openssl pkcs8 -topk8 -v2 aes256 -in OLD -out NEW";
    let none = "holds no certificate in PEM form".to_owned();
    let unknown = "No such file or directory (os error 2)".to_owned();
    for (options, option, path, reason) in [
        (
            trusting(missing.clone()),
            "cafile",
            &missing,
            unknown.clone(),
        ),
        (trusting(empty.clone()), "cafile", &empty, none.clone()),
        (
            trusting(broken.clone()),
            "cafile",
            &broken,
            "base64 decode error: InvalidCharacter(42)".into(),
        ),
        (capath(&missing), "capath", &missing, unknown),
        (capath(&directory), "capath", &directory, none.clone()),
        (empty_certificate, "certificate", &empty, none),
        (
            only_key,
            "key",
            &key_file("ec-sec1.pem"),
            "needs a certificate beside it".into(),
        ),
        (
            only_certificate,
            "key",
            &certificate,
            "holds no private key in PEM form".into(),
        ),
        (
            with_key("ec-pbkdf2.pem", None),
            "key",
            &key_file("ec-pbkdf2.pem"),
            "is encrypted, a password is needed".into(),
        ),
        (
            with_key("ec-pbkdf2.pem", Some("guess")),
            "key",
            &key_file("ec-pbkdf2.pem"),
            "cannot be decrypted with the password given".into(),
        ),
        (
            with_key("ec-pbes1.pem", sesame),
            "key",
            &key_file("ec-pbes1.pem"),
            format!("is encrypted in a way that is not supported; {convert}"),
        ),
        (
            with_key("ec-legacy.pem", sesame),
            "key",
            &key_file("ec-legacy.pem"),
            format!("is encrypted in a way that is not supported; {convert}"),
        ),
        (
            with_key("ec-sec1.pem", None),
            "key",
            &key_file("ec-sec1.pem"),
            format!("is not the key of '{}'", certificate.display()),
        ),
    ] {
        let text = TlsConfig::new(&options).unwrap_err().to_string();
        assert_eq!(text, format!("{option} '{}': {reason}", path.display()));
    }
}

#[test]
fn options_that_make_no_sense_are_errors() {
    for (options, expected) in [
        (
            TlsOptions {
                min_version: TlsVersion::Tls13,
                max_version: TlsVersion::Tls12,
                ..no_verification()
            },
            "min_version is above max_version",
        ),
        (
            TlsOptions {
                alpn: vec![b"mqtt".to_vec(), vec![]],
                ..no_verification()
            },
            "each name in alpn must have 1 to 255 bytes",
        ),
        (
            TlsOptions {
                server_name: Some("a b".into()),
                ..no_verification()
            },
            "server name must be a host name or an IP address, got: 'a b'",
        ),
    ] {
        assert_eq!(TlsConfig::new(&options).unwrap_err().to_string(), expected);
    }
}

#[test]
fn debug_hides_the_secrets() {
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["client"]).self_signed(&key).unwrap().pem();
    let options = TlsOptions {
        certificate: Some(file("debug.pem", &(certificate + &key.serialize_pem()))),
        password: Some("hunter2".into()),
        server_name: Some("broker.example".into()),
        ..no_verification()
    };
    assert!(!format!("{options:?}").contains("hunter2"));
    let config = format!("{:?}", TlsConfig::new(&options).unwrap());
    assert_eq!(
        config,
        "TlsConfig { server_name: Some(DnsName(\"broker.example\")), .. }"
    );
}
