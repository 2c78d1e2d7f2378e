//! A conversation with a gateway in frames of any kind, some of them good ones that were changed: no panic, nobody is admitted, and
//! the store stays as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::SecretBytes;
use toehold_core::testing::{ManualClock, MemoryStore, block_on};
use toehold_joinproto::admission::{Desk, NewToken, Vault};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::{AgentIdentity, Channel, ClientConfig, Conversation, CookieKeys, Ended, Exporter, Gateway, Turn};
use toehold_joinproto::{Endpoint, GatewayIdentity};
use zeroize::Zeroizing;

struct NoVault;

impl Vault for NoVault {
    fn seal(&self, _: &str, _: &SecretBytes) -> Result<String, String> {
        Err("nothing is sealed here".to_owned())
    }

    fn open(&self, _: &str, _: &str) -> Result<SecretBytes, String> {
        Err("nothing is sealed here".to_owned())
    }
}

fuzz_target!(|frames: Vec<(bool, u16, u8, Vec<u8>)>| {
    block_on(async {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let desk = Desk::new(MemoryStore::new(), ManualClock::default(), NoVault);
        let known = desk.create(NewToken::new("agent".parse().expect("a role")), &mut rng).await.expect("a token");
        let before = desk.store.entries();
        // The client knows the token's id, and not its secret.
        let mut bytes = [7; 32];
        bytes[..6].copy_from_slice(known.id().as_bytes());
        let (token, endpoint) = (Token::from_bytes(&bytes), "gw:1".parse::<Endpoint>().expect("an endpoint"));
        let (identity, gateway_identity) = (AgentIdentity::from_saved(&Zeroizing::new([1; 32])), GatewayIdentity::from_key(&[]));
        let exporter = Exporter([1; 32]);
        let channel = Channel { exporter, gateway_key: *gateway_identity.pin().digest(), source: [127, 0, 0, 1].into() };
        let gateway = Gateway { cookies: CookieKeys::generate(&mut rng), endpoints: Vec::new() };
        let mut conversation = Conversation::new(channel);
        let config =
            ClientConfig { endpoint: &endpoint, identity: &identity, token: &token, gateway: &gateway_identity, exporter };
        let (waiting, mut good) = config.start(&mut rng);
        let (mut await_retry, mut await_answer) = (Some(waiting), None);
        for (change, place, with, other) in frames {
            let mut frame = if change { other } else { good.clone() };
            if let Some(byte) = frame.get_mut(usize::from(place)) {
                *byte ^= with;
            }
            match conversation.receive(&gateway, &desk, &[], &frame, &mut rng).await {
                Turn::Answer(answer) => {
                    if let Some(Ok((next, offer))) = await_retry.take().map(|waiting| waiting.receive(&answer, &mut rng)) {
                        (await_answer, good) = (Some(next), offer);
                    } else if let Some(Ok((_, proof))) = await_answer.take().map(|waiting| waiting.receive(&answer)) {
                        good = proof;
                    }
                }
                Turn::Last(_, Ended::Failed(_)) => {}
                Turn::Last(_, ended) => panic!("{ended:?}"),
            }
        }
        assert_eq!(desk.store.entries(), before);
    });
});
