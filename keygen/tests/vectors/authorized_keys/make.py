#!/usr/bin/env python3
"""Makes lines.txt anew, and what ssh-keygen says about it."""
import base64, os, re, subprocess, tempfile


def string(data):
    return len(data).to_bytes(4, "big") + data


def fields(blob):
    while blob:
        length = int.from_bytes(blob[:4], "big")
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]


def line(options, word, blob, comment=b""):
    head = options + b" " if options else b""
    return head + word + b" " + base64.b64encode(blob) + (b" " + comment if comment else b"")


with tempfile.TemporaryDirectory() as directory:

    def key(kind, bits):
        path = os.path.join(directory, kind + bits)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f", path], check=True)
        with open(path + ".pub", "rb") as file:
            return base64.b64decode(file.read().split()[1])

    ed25519, p256, p521, rsa = key("ed25519", "256"), key("ecdsa", "256"), key("ecdsa", "521"), key("rsa", "2048")
    _, exponent, modulus = fields(rsa)
    security_key = string(b"sk-ssh-ed25519@openssh.com") + string(list(fields(ed25519))[1]) + string(b"ssh:")
    padded_rsa = string(b"ssh-rsa") + string(b"\0\0" + exponent) + string(b"\0\0\0" + modulus)
    foreign = string(b"ssh-future@example.net") + string(b"whatever it holds")
    text = base64.b64encode(ed25519)

    lines = [
        b"# a comment with ssh-ed25519 " + text,
        b"",
        b"  \t ",
        line(b"", b"ssh-ed25519", ed25519, b"plain"),
        line(b"", b"ecdsa-sha2-nistp256", p256),
        line(b"", b"ecdsa-sha2-nistp521", p521, b"two  words "),
        line(b"", b"ssh-rsa", rsa, b"carriage return") + b"\r",
        line(b"", b"ssh-ed25519", ed25519) + b"\r",
        b"\t  " + line(b"", b"ssh-ed25519", ed25519, b"blanks in front"),
        b"ssh-ed25519 \t  " + text + b"\t\ttabs",
        line(b"", b"sk-ssh-ed25519@openssh.com", security_key, b"touch me"),
        line(b"no-touch-required", b"sk-ssh-ed25519@openssh.com", security_key),
        line(b"cert-authority,principals=\"a,b\"", b"ssh-ed25519", ed25519, b"an authority"),
        line(b'command="echo \\"a, b\\" c",no-pty', b"ssh-ed25519", ed25519, b"escaped quotes"),
        line(b'environment="A=ssh-rsa AAAAB3NzaC1yc2E",restrict', b"ssh-ed25519", ed25519),
        line(b'command="open', b"ssh-ed25519", ed25519, b"open quote"),
        line(b'command="ends in \\\\"', b"ssh-ed25519", ed25519, b"backslash before a quote that so stays open"),
        line(b'future-option="x y",another', b"ssh-ed25519", ed25519, b"unknown options"),
        line(b",,restrict,", b"ssh-ed25519", ed25519, b"empty options"),
        line(b"", b"ssh-future@example.net", foreign, b"unknown algorithm"),
        line(b"restrict", b"ssh-ed25519", b"", b"no key"),
        line(b"", b"ssh-rsa", ed25519, b"other algorithm than in the blob"),
        line(b"", b"rsa-sha2-256", rsa, b"a signature algorithm for the key type"),
        line(b"", b"ssh-rsa", padded_rsa, b"superfluous zeros"),
        line(b"", b"ssh-ed25519", ed25519 + b"x", b"more behind the key"),
        b"ssh-ed25519 " + text[:-4] + b" cut off",
        b"ssh-ed25519 " + text[:40] + b"-" + text[40:] + b" foreign character",
        b"ssh-ed25519 " + text[:40] + b"\x0b\x0c\r" + text[40:] + b" other white space",
        b"ecdsa-sha2-nistp256 " + base64.b64encode(p256).rstrip(b"=") + b" without padding",
        b"restrict ssh-ed25519",
        b"ssh-ed25519",
        b"ssh-ed25519 ",
        text,
        line(b"", b"ssh-ed25519", ed25519) + b"\0 behind a NUL",
        b"\0" + line(b"", b"ssh-ed25519", ed25519),
        line(b'command="\0"', b"ssh-ed25519", ed25519, b"NUL in the options"),
        line(b"", b"ssh-ed25519", ed25519, b"no UTF-8: \xff\xfe\xe4"),
        line(b'command="\xe4\xff"', b"ssh-ed25519", ed25519),
        line(b"", b"ssh-ed25519", ed25519, b"first key, then ") + b" " + line(b"", b"ssh-rsa", rsa),
        b"1024 35 1234567890 of protocol 1",
        line(b'command="' + b"long " * 20000 + b'"', b"ssh-ed25519", ed25519, b"long"),
        line(b"", b"ecdsa-sha2-nistp256", p256, b"no line feed behind"),
    ]
    with open("lines.txt", "wb") as file:
        file.write(b"\n".join(lines))
    said = subprocess.run(["ssh-keygen", "-l", "-f", "lines.txt"], check=True, stdout=subprocess.PIPE).stdout
    with open("fingerprints.txt", "wb") as file:
        for fingerprint in re.findall(rb"^\d+ (SHA256:\S+)", said, re.M):
            file.write(fingerprint + b"\n")
