// A camera built on MQTT.js: it answers one command by name and ends.
// Usage: node mqttjs-camera.mjs URL CA CERT KEY COMMANDS-TOPIC EVENTS-TOPIC
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const [url, ca, cert, key, commands, events] = process.argv.slice(2);
const client = mqtt.connect(url.replace("ssl:", "mqtts:"), {
  protocolVersion: 4,
  ca: readFileSync(ca),
  cert: readFileSync(cert),
  key: readFileSync(key),
  reconnectPeriod: 0,
});

function fail(error) {
  console.error(error);
  process.exit(1);
}

client.on("error", fail);
client.on("connect", () => {
  client.subscribe(commands, { qos: 1 }, (error, granted) => {
    if (error || granted[0].qos !== 1) fail(error ?? granted);
  });
});
client.on("message", (topic, payload) => {
  const command = JSON.parse(payload);
  const reply = { request_id: command.request_id, status: "ok", result: `${command.command} by MQTT.js` };
  client.publish(events, JSON.stringify(reply), { qos: 1 }, (error) => {
    if (error) fail(error);
    client.end(); // after the PUBACKs of both directions
  });
});
