from treadle.schedules.scan.turned import Knobs, applies, default, legal, schedule
SERIAL = True
