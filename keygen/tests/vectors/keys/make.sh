#!/bin/sh
# Makes the files of this directory anew, with other keys. See README.md.
# Needs OpenSSH 9.2 (9.8 dropped DSA) and OpenSSL 3.0. The passphrase is always: correct horse
set -eu
umask 077
cd "$(dirname "$0")"
find . -type f ! -name make.sh ! -name README.md -delete
pass='correct horse'
comment='toehold test key, authorizes nothing'

openssh() { # NAME TYPE BITS: an OpenSSH file, its public half and its fingerprint
    ssh-keygen -q -t "$2" -b "$3" -N '' -C "$comment" -f "$1.openssh"
    mv "$1.openssh.pub" "$1.pub"
    printf '%s %s\n' "$1" "$(ssh-keygen -l -f "$1.pub" | cut -d' ' -f2)" >>fingerprints.txt
}

encrypt() { # NAME SUFFIX OPTION...: the OpenSSH file with the passphrase
    name=$1 suffix=$2
    shift 2
    cp "$name.openssh" "$name.openssh-$suffix"
    ssh-keygen -q -p -P '' -N "$pass" "$@" -f "$name.openssh-$suffix" >/dev/null
}

openssh ed25519 ed25519 256
openssh ecdsa-p256 ecdsa 256
openssh ecdsa-p384 ecdsa 384
openssh ecdsa-p521 ecdsa 521
openssh rsa-2048 rsa 2048
openssh rsa-3072 rsa 3072
openssh rsa-8192 rsa 8192
openssh weak-rsa-1024 rsa 1024
openssh dsa dsa 1024

# A scalar that OpenSSH writes in 31 bytes, as it does one time in 512.
until grep -q . short-scalar.pub 2>/dev/null; do
    ssh-keygen -q -t ecdsa -b 256 -N '' -C "$comment" -f try </dev/null
    cp try pem && ssh-keygen -q -p -m PEM -P '' -N '' -f pem >/dev/null
    if openssl ec -in pem -noout -text 2>/dev/null | sed -n 3p | grep -q '^ *00:[0-7]'; then
        mv try short-scalar.openssh && mv try.pub short-scalar.pub
    fi
    rm -f try try.pub pem
done
printf '%s %s\n' short-scalar "$(ssh-keygen -l -f short-scalar.pub | cut -d' ' -f2)" >>fingerprints.txt

# PKCS#8, PKCS#1 and SEC1. ssh-keygen 9.2 does not write Ed25519 as PKCS#8, so OpenSSL reads the seed in RFC 8410's frame.
for name in ecdsa-p256 ecdsa-p384 ecdsa-p521 short-scalar rsa-2048 rsa-3072 weak-rsa-1024; do
    cp "$name.openssh" pem
    ssh-keygen -q -p -m PEM -P '' -N '' -f pem >/dev/null
    openssl pkcs8 -topk8 -nocrypt -in pem -out "$name.pkcs8"
    case $name in
    *rsa*) openssl rsa -in pem -traditional -out "$name.pkcs1" 2>/dev/null ;;
    *) openssl ec -in pem -out "$name.sec1" 2>/dev/null ;;
    esac
    rm pem
done
{
    printf '\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040'
    # Magic, none, none, no options, one key, its public half, the length and the two check numbers; then the name and
    # the public half again, and the private half: seed and public half.
    sed '/^-/d' ed25519.openssh | base64 -d | dd bs=1 skip=161 count=32 2>/dev/null
} | openssl pkey -inform DER -out ed25519.pkcs8

for name in ed25519 ecdsa-p256 ecdsa-p384 ecdsa-p521 rsa-2048 rsa-3072; do
    encrypt "$name" encrypted -a 2
    openssl pkcs8 -topk8 -in "$name.pkcs8" -passout "pass:$pass" -out "$name.pkcs8-encrypted"
done
for cipher in aes128-cbc aes192-ctr aes256-gcm@openssh.com chacha20-poly1305@openssh.com; do
    encrypt ed25519 "${cipher%%@*}" -a 1 -Z "$cipher"
done
encrypt ed25519 default-rounds
encrypt short-scalar encrypted -a 1
encrypt ed25519 3des-cbc -a 1 -Z 3des-cbc
openssl pkcs8 -topk8 -scrypt -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-scrypt
openssl pkcs8 -topk8 -v2 des3 -v2prf hmacWithSHA1 -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-des3-sha1
openssl pkcs8 -topk8 -v2 aes128 -v2prf hmacWithSHA512 -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-aes128-sha512
openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-pbes1
openssl pkcs8 -topk8 -v2 camellia128 -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-camellia
openssl pkcs8 -topk8 -iter 20000000 -in ed25519.pkcs8 -passout "pass:$pass" -out ed25519.pkcs8-slow
for name in ed25519 ecdsa-p256 rsa-2048; do
    openssl pkcs8 -topk8 -nocrypt -in "$name.pkcs8" -outform DER -out "$name.pkcs8.der"
done
openssl pkcs8 -topk8 -in ed25519.pkcs8 -passout "pass:$pass" -outform DER -out ed25519.pkcs8-encrypted.der
openssl rsa -in rsa-2048.pkcs1 -traditional -outform DER -out rsa-2048.pkcs1.der 2>/dev/null
openssl ec -in ecdsa-p256.sec1 -outform DER -out ecdsa-p256.sec1.der 2>/dev/null
openssl ec -in ecdsa-p384.sec1 -conv_form compressed -out ecdsa-p384.sec1-compressed 2>/dev/null
openssl ec -in ecdsa-p521.sec1 -no_public -out ecdsa-p521.sec1-no-public 2>/dev/null
{ openssl ecparam -name prime256v1 && cat ecdsa-p256.sec1; } >ecdsa-p256.sec1-with-parameters
openssl req -x509 -key rsa-2048.pkcs8 -subj '/CN=toehold test key' -days 1 -out certificate 2>/dev/null
cat certificate rsa-2048.pkcs8 >rsa-2048.pkcs8-after-certificate
rm certificate

# What is refused.
openssl rsa -in rsa-2048.pkcs1 -traditional -aes128 -passout "pass:$pass" -out legacy-encrypted.pkcs1 2>/dev/null
openssl ec -in ecdsa-p256.sec1 -aes256 -passout "pass:$pass" -out legacy-encrypted.sec1 2>/dev/null
cp dsa.openssh dsa.pem && ssh-keygen -q -p -m PEM -P '' -N '' -f dsa.pem >/dev/null
cp dsa.openssh dsa.openssh-encrypted && ssh-keygen -q -p -P '' -N "$pass" -a 1 -f dsa.openssh-encrypted >/dev/null
openssl pkcs8 -topk8 -nocrypt -in dsa.pem -out dsa.pkcs8
encrypt weak-rsa-1024 encrypted -a 1
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out secp256k1.pkcs8
openssl ec -in secp256k1.pkcs8 -out secp256k1.sec1 2>/dev/null
openssl genpkey -algorithm ED448 -out ed448.pkcs8
openssl genpkey -algorithm X25519 -out x25519.pkcs8
openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out rsa-pss.pkcs8 2>/dev/null
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_primes:3 -out rsa-three-primes.pkcs8 2>/dev/null
openssl ec -in ecdsa-p256.sec1 -param_enc explicit -out explicit-curve.sec1 2>/dev/null
openssl pkey -in rsa-2048.pkcs8 -pubout -out public.spki
openssl rsa -in rsa-2048.pkcs8 -RSAPublicKey_out -out public.pkcs1 2>/dev/null
ssh-keygen -e -f ed25519.pub >public.ssh2
cp ed25519.pub certified.pub && ssh-keygen -q -s ecdsa-p256.openssh -I 'toehold test' certified.pub && rm certified.pub
mv certified-cert.pub public.certificate
chmod 644 -- *
chmod 755 make.sh
