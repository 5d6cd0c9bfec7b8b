#!/bin/sh
# Gives the broker a password nobody has chosen, then becomes the broker.
#
# The password is made once for the life of the volume /credentials. Whoever mounts that volume can
# read it: the URL there is what MQTT_URL is set to in the other containers, and
# `docker compose exec mosquitto cat /credentials/mqtt_url` shows it to a person.
set -eu
cd /credentials
if [ ! -s mqtt_url ]; then
    password=$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
    rm -f passwords
    mosquitto_passwd -b -c passwords toolkit "$password"
    # The broker drops root before it reads this file.
    chown mosquitto:mosquitto passwords
    chmod 0400 passwords
    printf 'mqtt://toolkit:%s@mosquitto:1883' "$password" >mqtt_url.new
    chmod 0444 mqtt_url.new
    mv mqtt_url.new mqtt_url
fi
exec mosquitto -c /compose/mosquitto.conf
