# To be sourced: a mosquitto as a child of this shell.
PATH=$PATH:/usr/sbin
broker=

# Prints the first line of a file that matches one of the patterns, as soon as it is written by a process:
# wait_for_line FILE PID PATTERN...
wait_for_line() {
	local file=$1 writer=$2 lines tail line pattern
	shift 2
	exec {lines}< <(exec tail -n +1 -f --pid="$writer" "$file")
	tail=$!
	while read -r -t 90 -u "$lines" line; do
		for pattern; do
			# shellcheck disable=SC2053
			[[ $line != $pattern ]] || break 2
		done
		line=
	done
	kill "$tail" 2>/dev/null || :
	exec {lines}<&-
	echo "$line"
}

# Starts the broker and waits for the line in its log that tells the outcome: start_mosquitto CONFIGURATION LOG
# Fails if the broker did not start. The broker ends with this shell.
start_mosquitto() {
	: >"$2"
	setpriv --pdeathsig KILL mosquitto -c "$1" 2>>"$2" &
	broker=$!
	[[ $(wait_for_line "$2" "$broker" '*mosquitto*running*' '*Error:*') == *running* ]]
}

# Ends the broker by a signal, and waits until it has ended: end_mosquitto SIGNAL
end_mosquitto() {
	[[ -z $broker ]] || { kill "-$1" "$broker" && wait "$broker"; } 2>/dev/null || :
	broker=
}
