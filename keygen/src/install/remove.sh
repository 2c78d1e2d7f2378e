# The script of the line that takes a temporary key off a host again; written under the rules of install.sh. It needs no
# secret and may be run any number of times.
#
# u account's user   h home   i session id   k `type base64` of the key
exec 3>&2 2>/dev/null;
set -u;
umask 077;
export LC_ALL=C;
e() { printf "toehold: %s\n" "$*" >&3; exit 1; };
x=$(id -un);
[ "$x" = "$u" ] || e "this is the account $x, not $u";
#if passwd
h=~USER;
#fi
case $h in /*) ;; *) e "$u has no home, tell --home"; esac;
h=${h%/};
d=$h/.ssh;
f=$d/authorized_keys p=$d/toehold-proof-$i;
t=$f.toehold-$i;
m() { grep -qx "$1" "$p"; };
n() { cat "$1" | wc -c; };
trap "rm -f \"\$t\"" 0;
trap "exit 1" 1 2 13 15;
c="has no temporary key of this session";
if grep -qF "$k" "$f"; then
  [ ! -L "$d" ] && [ ! -L "$f" ] && [ -f "$f" ] || e "$f is a link or no file, nothing was changed";
  cp -p "$f" "$t" && sed "\|$k|d" <"$f" >"$t" || e "cannot write $t, nothing was changed";
# busybox ends a last line that has no newline when it prints it; a BSD also where it copies it, which is refused.
  x=$(sed -n "\|$k|p" <"$f" | wc -c);
  x=$(($(n "$f")-$(n "$t")-x));
  [ $x = 0 ] || { [ $x = -1 ] && tail -n 1 "$f" | grep -qF "$k"; } || e "cannot write $t, nothing was changed";
  if m new:newline && tail -n 1 "$f" | grep -qF "$k"; then
    dd if=/dev/null of="$t" bs=1 seek=$(($(n "$t")-1)) || e "cannot write $t, nothing was changed"; fi;
  mv -f "$t" "$f" || e "cannot replace $f, nothing was changed";
  c="has lost the temporary key";
fi;
[ -f "$f" ] && [ ! -s "$f" ] && m new:authorized_keys && rm -f "$f";
x=;
m new:.ssh && x=1;
# What an interrupted replacement of this session has left.
grep -q "^$i " "$f.toehold-lock" && rm -f "$f.toehold-lock";
rm -f "$p" "$p".* "$t".*;
[ $x ] && rmdir "$d";
echo "toehold: $u $c.";
