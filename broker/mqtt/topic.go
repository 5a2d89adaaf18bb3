package mqtt

import (
	"strings"
	"unicode/utf8"

	"signaldevice/device"
)

// maxTopic is the longest topic in bytes that IoT Core takes (iot-core.md: topic ≤ 1024).
const maxTopic = 1024

// validTopic reports whether a device may name this topic in a PUBLISH at all [MQTT-3.3.2-2] [MQTT-1.5.3-1] [MQTT-1.5.3-2].
func validTopic(topic string) bool {
	return topic != "" && len(topic) <= maxTopic && !strings.ContainsAny(topic, "#+\x00") && utf8.ValidString(topic)
}

// suffixes of a device's own topics (iot-core.md, "MQTT").
var (
	publishable    = []string{"/events", "/state"}
	subscribable   = []string{"/commands", "/config"}
	commandsSuffix = "/commands"
)

// own returns what follows `$devices/<id>` or `$me/device` in a topic or filter of the device's own.
func own(id device.ID, topic string) (rest string, ok bool) {
	if rest, ok := strings.CutPrefix(topic, "$devices/"+string(id)+"/"); ok {
		return "/" + rest, true
	}
	if rest, ok := strings.CutPrefix(topic, "$me/device/"); ok {
		return "/" + rest, true
	}
	return "", false
}

func allowed(rest string, suffixes []string) bool {
	for _, s := range suffixes {
		if _, ok := device.Under(rest, s); ok {
			return true
		}
	}
	return false
}

// mayPublish reports whether the device may publish to the topic.
func mayPublish(id device.ID, topic string) bool {
	rest, ok := own(id, topic)
	return ok && allowed(rest, publishable)
}

// maySubscribe reports whether the device may subscribe to the filter: no wildcard may stand before its own topics end.
func maySubscribe(id device.ID, filter string) bool {
	rest, ok := own(id, filter)
	return ok && allowed(rest, subscribable) && len(filter) <= maxTopic
}

// matches reports whether a filter takes a topic; both are levels below the same base [MQTT-4.7.1-2] [MQTT-4.7.1-3].
func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i >= len(t):
			return false
		case level != "+" && level != t[i]:
			return false
		}
	}
	// "commands/#" takes "commands" itself: its last level was the '#', returned above, or is missing in the topic.
	return len(f) == len(t)
}
