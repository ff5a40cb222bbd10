"""What a record is: Avro schemas, codecs, the validation gate, units, topics, limits, errors and feature sets."""
