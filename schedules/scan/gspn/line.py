from treadle.schedules.scan.lines import Knobs, applies, default, legal, schedule
SERIAL = True
