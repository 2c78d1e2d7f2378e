stty -echo 2>/dev/null
t_n=0 t_v= t_i=0 t_r= t_t=
t_stop() { printf '\036toehold %s failed %s\036' "$t_n" "$1"; exit 125; }
while IFS=' ' read -r t_k t_a; do
case $t_k in
n) t_n=$t_a ;;
v) t_v=$t_v$t_a ;;
e) t_d=$(printf '%b.' "$t_v") || t_stop printf; export "$t_a=${t_d%.}"; t_v= ;;
p|h) t_d=$(printf '%b.' "$t_v") || t_stop printf; t_p=${t_d%.} t_v= t_i=$((t_i + 1)) t_f=file$t_i
[ "$t_k" = p ] || case $HOME in /*) t_p=${HOME%/}/$t_p ;; *) t_stop home ;; esac
t_q=$t_p.toehold-$t_n
[ -d "${t_p%/*}/" ] || mkdir -p -- "${t_p%/*}" || t_stop "$t_f"
[ -d "$t_p" ] && t_stop "$t_f"
(set -C; umask 077; : >"$t_q") || t_stop "$t_f" ;;
w) printf '%b' "$t_a" >>"$t_q" || { rm -f -- "$t_q"; t_stop "$t_f"; } ;;
c) chmod "$t_a" "$t_q" && mv -f -- "$t_q" "$t_p" || { rm -f -- "$t_q"; t_stop "$t_f"; } ;;
a) t_d=$(printf '%b.' "$t_v") || t_stop printf; set -- "$@" "${t_d%.}"; t_v= ;;
i) command -v "$1" >/dev/null 2>&1 || { shift; set -- /bin/sh "$@"; } ;;
r) t_r=1; printf '\036toehold %s ready %s\036' "$t_n" "$$" ;;
t) t_t=1 ;;
g) stty echo 2>/dev/null; [ "$t_r" ] || printf '\036toehold %s ready %s\036' "$t_n" "$$"
[ "$t_t" ] || exec "$@"
trap : ABRT ALRM FPE HUP ILL INT PIPE QUIT SEGV TERM USR1 USR2
exec 3>&2 2>/dev/null
(exec "$@" 2>&3 3>&-)
t_s=$?
printf '\036toehold %s ended %s\036' "$t_n" "$t_s" >&3
cat >/dev/null || while read -r t_l; do :; done
exit "$t_s" ;;
*) t_stop line ;;
esac
done
t_stop short
