"""The only place that joins rooms: the whole pipeline on one machine, the replay of files, and the proof of both."""
