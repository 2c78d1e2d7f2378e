trap '' HUP
t_s=' '
t_all() {
for t_d in /proc/[0-9]*; do
t_l=; { read -r t_l <"$t_d/stat"; } 2>/dev/null || continue
set -- "$1" "$2" ${t_l##*) }
case $2 in *" $6 "*) kill "-$1" "${t_d#/proc/}" 2>/dev/null ;; esac
done
}
t_end() { t_all HUP "$1"; t_all CONT "$1"; sleep 1; t_all KILL "$1"; }
t_off() { case $t_s in *" $1 "*) t_s="${t_s%% "$1" *} ${t_s#* "$1" }" ;; esac; }
while IFS=' ' read -r t_k t_a t_b; do
case $t_a in ''|*[!0-9]*) continue ;; esac
case $t_k in
w) case $t_s in *" $t_a "*) ;; *) t_s="$t_s$t_a " ;; esac
printf 'w %s\n' "$t_a" ;;
u) t_off "$t_a" ;;
e) t_off "$t_a"; t_end " $t_a " </dev/null >/dev/null 2>&1 & ;;
s) case $t_b in ''|*[!A-Z0-9]*) continue ;; esac
kill "-$t_b" "-$t_a" 2>/dev/null || kill "-$t_b" "$t_a" 2>/dev/null ;;
esac
done
[ "$t_s" = ' ' ] && exit 0
t_end "$t_s"
