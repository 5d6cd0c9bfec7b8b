#!/bin/sh
# Runs a command of the image with MQTT_URL set from the broker's volume, where one is mounted.
set -eu
if [ -z "${MQTT_URL:-}" ] && [ -r /credentials/mqtt_url ]; then
    MQTT_URL=$(cat /credentials/mqtt_url)
    export MQTT_URL
fi
exec "$@"
