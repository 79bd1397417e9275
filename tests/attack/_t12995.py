from tests.attack.fuzz import *
import random, traceback
dice=random.Random(1)
s=Stage()
p=s.start(s.config(CONFIG), f"--listen={SOCKET}")
time.sleep(0.5)
try: flood(5000,dice,p.pid)
except BaseException: traceback.print_exc()
time.sleep(0.3)
print(p.poll(), s.said()[-1500:])
p.kill()
