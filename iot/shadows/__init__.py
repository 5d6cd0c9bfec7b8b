"""The shadow service: AWS IoT's reserved shadow topics on a plain MQTT broker.

``document``  merge, delta and metadata over JSON values    pure
``protocol``  topics, requests, limits, error codes         pure
``service``   request in, publications out                  pure, given a store and a clock
``store``     where documents live                          SQLite
``__main__``  the MQTT client around it                     ``python -m iot.shadows``
"""
