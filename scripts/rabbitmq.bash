# To be sourced after mosquitto.bash: RabbitMQ nodes, a cluster if there are several, as children of this shell. They
# listen on the loopback only, are separate from a RabbitMQ that the machine runs, and keep all files in $dir.
# Nodes have numbers from 1; the arrays hold the process and the ports of each node.
rabbitmq=()
rabbitmq_mqtt_port=()
rabbitmq_distribution_port=()
epmd=

# RabbitMQ's own scripts: the scripts in PATH change the user.
rabbitmq_bin=/usr/lib/rabbitmq/bin

# Prints free ports of 127.0.0.1, below the range for outgoing connections: free_ports COUNT
free_ports() {
	local port count=$1
	for port in $(shuf -i 20000-32000 -n $((count + 20))); do
		((count > 0)) || break
		(: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && count=$((count - 1)); }
	done
}

# Makes the files of COUNT nodes, and starts epmd: configure_rabbitmq COUNT [SETTING...]
configure_rabbitmq() {
	local count=$1 number ports
	shift
	ports=($(free_ports $((count * 2 + 1))))
	export ERL_EPMD_PORT=${ports[0]} ERL_EPMD_ADDRESS=127.0.0.1
	mkdir -p "$dir/home"
	(umask 277 && head -c 16 /dev/urandom | base64 >"$dir/home/.erlang.cookie")
	echo '[rabbitmq_mqtt].' >"$dir/plugins"
	for ((number = 1; number <= count; number++)); do
		rabbitmq_mqtt_port[number]=${ports[number * 2 - 1]}
		rabbitmq_distribution_port[number]=${ports[number * 2]}
		mkdir "$dir/rabbit$number"
		printf '%s\n' >"$dir/rabbit$number/rabbitmq.conf" \
			'listeners.tcp = none' "mqtt.listeners.tcp.1 = 127.0.0.1:${rabbitmq_mqtt_port[number]}" \
			'cluster_formation.peer_discovery_backend = classic_config' \
			'cluster_formation.classic_config.nodes.1 = rabbit1@localhost' \
			'cluster_formation.discovery_retry_limit = 1' "$@"
		# RabbitMQ 4 does not start if a node stands there twice.
		((number == 1)) || echo "cluster_formation.classic_config.nodes.2 = rabbit$number@localhost" \
			>>"$dir/rabbit$number/rabbitmq.conf"
	done
	setpriv --pdeathsig KILL epmd &
	epmd=$!
}

# Starts nodes at the same time, and waits until they are ready: start_rabbitmq NUMBER...
# The other nodes join the first: it has to be ready before they are started for the first time.
start_rabbitmq() {
	local number node
	for number; do
		node=$dir/rabbit$number
		: >"$node/log"
		# RUNNING_UNDER_SYSTEMD lets the script become the server, in the same process.
		setpriv --pdeathsig KILL env RUNNING_UNDER_SYSTEMD=true HOME="$dir/home" \
			RABBITMQ_NODENAME="rabbit$number@localhost" \
			RABBITMQ_DIST_PORT="${rabbitmq_distribution_port[number]}" \
			RABBITMQ_CONF_ENV_FILE="$node/none" RABBITMQ_CONFIG_FILE="$node/rabbitmq.conf" \
			RABBITMQ_ENABLED_PLUGINS_FILE="$dir/plugins" RABBITMQ_GENERATED_CONFIG_DIR="$node" \
			RABBITMQ_MNESIA_BASE="$node" RABBITMQ_LOG_BASE="$node" RABBITMQ_LOGS=- ERL_CRASH_DUMP="$node/crash" \
			RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1 +sbwt none +sbwtdcpu none +sbwtdio none
				-kernel inet_dist_use_interface {127,0,0,1}' \
			"$rabbitmq_bin/rabbitmq-server" >>"$node/log" 2>&1 &
		rabbitmq[number]=$!
	done
	for number; do
		[[ $(wait_for_line "$dir/rabbit$number/log" "${rabbitmq[number]}" '*Server startup complete*') ]] || return
	done
}

# Kills nodes, and waits until they have ended: kill_rabbitmq NUMBER...
kill_rabbitmq() {
	local number
	for number; do
		{ kill -KILL "${rabbitmq[number]}" && wait "${rabbitmq[number]}"; } 2>/dev/null || :
		unset "rabbitmq[number]"
	done
}

# Kills all nodes, and the daemon that told them of each other.
end_rabbitmq() {
	kill_rabbitmq "${!rabbitmq[@]}"
	[[ -z $epmd ]] || { kill -KILL "$epmd" && wait "$epmd"; } 2>/dev/null || :
	epmd=
}
