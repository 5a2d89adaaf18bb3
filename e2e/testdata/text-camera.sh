#!/bin/sh
# A camera that knows no JSON: it reads lines, and answers with lines. Its files are those of its enrolment: ca.pem,
# cert.pem and key.pem.
#
#   text-camera.sh FOLDER HOST PORT COMMANDS-TOPIC EVENTS-TOPIC
#
#   VOL <id> <percent>   is answered by   OK <id> <percent> <percent before>
#   SAY <id> <words>     is answered by   OK <id>, or ERR <id> 12 speaker off, when it is silent
#   anything else        is answered by   WHAT <id>, the second word being taken for the id
folder=$1 host=$2 port=$3 commands=$4 events=$5
volume=40

as_camera() {
	client=$1
	shift
	"$client" -h "$host" -p "$port" -V mqttv311 -q 1 \
		--cafile "$folder/ca.pem" --cert "$folder/cert.pem" --key "$folder/key.pem" "$@"
}

as_camera mosquitto_sub -t "$commands" | while read -r verb id rest; do
	case $verb in
	VOL)
		answer="OK $id $rest $volume"
		volume=$rest
		;;
	SAY) if [ "$volume" -eq 0 ]; then answer="ERR $id 12 speaker off"; else answer="OK $id"; fi ;;
	*) answer="WHAT $id" ;;
	esac
	as_camera mosquitto_pub -t "$events" -m "$answer"
done
