# The script of the line that an operator pastes on a host, run by the host's plain `sh`: dash, bash, zsh, busybox ash or
# mksh. condense.rs takes out comments, indentation and the blanks around operators, keeps the parts that are asked for
# (#if … #fi) and joins the lines. So: no single quotes, no tabs, a separator at the end of every line that is a whole
# command, and no operator inside of a message. Every byte counts: a terminal takes 4,095 of them in one line.
#
# The secret comes on stdin, everything else in the environment of this one `sh`:
# u account's user   h home   i session id   E end in unix seconds, w for people and t for an expiry-time that is in UTC
# j 1 January and 1 July of that year in unix seconds   o TCP port of the SSH server   k `type base64` of the key
# r `,from="…"` or empty   positional: further .pub files of the host
exec 3>&2 2>/dev/null;
set -u;
umask 077;
unset TZ s;
export LC_ALL=C PATH="$PATH:/usr/sbin";
e() { echo "toehold: $*" >&3; exit 1; };
D= F= N= W= A= S=;
# What is added to the file.
B() { [ -z $N ] || echo; printf "%s\n" "$L"; };
# Takes back what was done. The file is cut only where all behind its old end is ours, whole or begun: what somebody else has
# appended meanwhile stays, and then so does our line, which has its own end.
Z() {
  c="nothing was changed";
  if [ $W ]; then
    x=$(tail -c +$((W+1)) "$f"; echo .);
    [ "$x" = . ] || case $(B; echo .) in
    "${x%.}"*) dd if=/dev/null of="$f" bs=1 seek=$W;;
    *) D= A= c="others wrote $f, the line stays until $w"; esac;
    [ -s "$f" ] || [ -z $F ] || rm "$f"; fi;
  [ $A ] && rm -f "$p" "$p.$$"; [ $D ] && rmdir "$d";
  echo "toehold: $c" >&3; exit 1; };
trap Z 0;
trap "exit 1" 1 2 13 15;
read -r s;

# Whose account this is (O3), and whether the grant is over (O2).
x=$(id -un);
[ "$x" = "$u" ] || e "this is the account $x, not $u";
[ "$(date +%s)" -lt $E ] || e "this line ended at $w";
#if passwd
h=~USER;
#fi
case $h in /*) ;; *) e "$u has no home, tell --home"; esac;
h=${h%/};
d=$h/.ssh;
a=authorized_keys p=$d/toehold-proof-$i;
f=$d/$a;

# l PATH: what StrictModes refuses, or a later atomic replacement would lose. False where there is nothing.
l() { x=$(ls -ldn "$1") || return;
  set -- "$1" $x;
  case $2 in l*) e "$1 is a link";; ?????w*|????????w*) e "others can write $1, use chmod go-w";; -*+) e "$1 has an ACL"; esac;
  [ $4 = $(id -u) ] || [ "$4$1" = "0$h/" ] || e "$1 belongs to uid $4"; };
l "$h/" || e "there is no $h";
l "$d" || D=1;
if l "$f"; then
  [ -f "$f" ] || e "$f is no file";
# What undoes the line over SFTP reads no larger file (MAX_AUTHORIZED_KEYS), ours included.
  [ $(wc -c <"$f") -lt 16773120 ] || e "$f is too large";
  [ $(cd "$d"; ls -dZ . $a | cut -sd: -f3 | uniq | wc -l) != 2 ] || e "$f lost its SELinux type, use restorecon";
  [ -s "$f" ] && [ $(tail -c 1 "$f" | wc -l) = 0 ] && N=1;
else F=1; fi;

#if told
# What sshd makes of this account (O6): its own answer where it gives one, else the global part of its configuration. The
# loop leaves the host keys' paths and the ports.
C=$({ sshd -T -C "user=$u,host=x,addr=127.0.0.1" || { cd /etc/ssh; for x in sshd_config.d/*f sshd_config; do
    sed "/^[^!-~]*[Mm][Aa][Tt]/,\$d;s/[=\"]/ /g" $x; done; }; echo authorizedkeysfile .ssh/$a; } |
grep -iE "port|hostkey[^a]|keys[fc]|chroot|forcec|pubkeyau" | while read -r x v; do
  case $x in *[A-Z]*) x=$(echo "$x" | tr A-Z a-z); esac;
  case $x=$v in
  auth*file=*) [ $S ] || for y in $v x; do
    y=${y#%h/};
    case $y in *%u*) y=${y%%%u*}$u${y#*%u}; esac;
    case $y in "$f"|.ssh/$a) break;; x) e "sshd reads $v, not $f"; esac; done; S=1;;
  hostkey=*) echo "$v.pub";;
  port=*) echo $v;;
  *=none|*=/|*=internal-sftp*) ;;
  chroot*|force*|pubkeyauth*=no) e "sshd has $x $v";;
  auth*mand=*) echo "toehold: note: sshd has $x $v" >&3; esac; done) || exit 1;
#fi
#if known
C=;
#fi

# The end of the key as this host reads it (O2).
y=internal-sftp;
#if detect
Y() { date -d @$* || date -r $*; };
case "$(sshd -V 2>&1; ssh -V 2>&1)" in
*SSH_[1-6].*|*SSH_7.[0-6]*) t=;;
*SSH_[78].*|*SSH_9.0*)
  v=99999;
  for x in $j; do
    x=$(Y $x +%z);
    z=$((1${x#?}-10000));
    z=$((${x%????}(z/100*3600+z%100*60)));
    [ $z -gt $v ] || v=$z; done;
  case $(tail -n 1 /etc/localtime) in IST-1GMT*) v=3600; esac;
  t=$(Y $((E+v)) -u +%Y%m%d%H%M%S);;
*SSH_9.*|*SSH_[1-9][0-9].*) ;;
*) t=; esac;
[ ${#t} -gt 13 ] || e "sshd knows no expiry-time here, use --no-expiry";
#fi
#if none
t= w="you remove it";
for x in local/libexec lib libexec lib/ssh libexec/openssh lib/openssh; do [ -x /usr/$x/sftp-server ] && y=/usr/$x/sftp-server; done;
#fi
q=\";
L="restrict,command=$q$y$q${t:+,expiry-time=$q$t$q}$r $k toehold-temporary:$i";

# Proof of the host keys (O4, O5).
H() { x=$(sha256sum || sha256 || openssl dgst -sha256); x=${x##*= }; echo ${x%% *}; };
G() { { echo $s$1; echo $x; } | H; };
T() { while read -r x y v; do case $x in ssh-*|ecdsa-*|sk-*) x=$(echo "$y" | H); x=$(G i); G o; esac; done; };
#if files
for x; do [ -r "$x" ] || e "cannot read $x"; done;
#fi
P=$({ for x in /etc/ssh/ssh_host_*key.pub $C "$@"; do cat "$x"; echo; done; for x in /etc/dropbear/*key; do dropbearkey -y -f "$x"; done; } | T);
C=" "$(echo $C 22)" ";
[ "$P" ] && [ "$#${C#* $o }" != "0$C" ] || P="$P $(for y in $o $C; do ssh-keyscan -p $y 127.0.0.1; done | cut -d" " -f2- | T)";
[ ${#P} -gt 63 ] || e "cannot read a host key, be root or use --host-key";

# Nothing was written so far. From here on a failure takes back whatever was. The proof is there before the key is.
[ -z $D ] || mkdir "$d" || e "cannot make $d";
[ -e "$p" ] || { A=1; set -C; printf "%s\n" $P ${D:+new:.ssh} ${F:+new:$a} ${N:+new:newline} >"$p.$$" && mv "$p.$$" "$p"; } || e "cannot write $p";
grep -qF "$k" "$f" || {
  W=$(cat "$f" | wc -c);
  B >>"$f" && grep -qxF "$L" "$f" || e "cannot write $f"; };
trap - 0;
echo "toehold: $u has the temporary key until $w."
